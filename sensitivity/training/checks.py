"""Checks of a study that need its data and model, made before any training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sensitivity.optimizers import width
from sensitivity.optimizers.contract import RULES, EvaluatesOtherParameters, Networks, Restricted
from sensitivity.optimizers.pack import TWO_AVERAGES, PackOptimizer
from sensitivity.study.arms import OWN, Arm, declared_kind
from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.hyperparameters import hyperparameter
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.spec import StudySpec
from sensitivity.study.users_code import users_code
from sensitivity.training.datasets.pieces import pieces, used_classes
from sensitivity.training.identity import check_follows_seed
from sensitivity.training.losses import IGNORED
from sensitivity.training.own_checks import loss_mistake, metric_mistakes, own_loss
from sensitivity.training.problems import Problem
from sensitivity.training.recomputation import no_recomputation
from sensitivity.training.user_models import output_mistake

logger = logging.getLogger(__name__)

_PROBE = 64
"""Maximum number of examples that are passed through the model."""


def check_study(spec: StudySpec, problem: Problem, *, source: str) -> None:
    """Check a study against its data set, and run one training step and one evaluation of its model.

    Raises:
        StudyFileError: lists every mistake found; `source` names the study file.
    """
    size = problem.dataset.train_size
    mistakes = [
        f"batch_sizes[{k}]: {batch} is larger than the training set; allowed: 1 to {size}"
        for k, batch in enumerate(spec.batch_sizes)
        if batch > size
    ]
    if (spec.evaluation.train_examples or 0) > size:
        mistakes.append(
            f"evaluation.train_examples: {spec.evaluation.train_examples} is more than the training set has; "
            f"allowed: 1 to {size}"
        )
    if spec.required_problem.augment != "none" and problem.dataset.train_inputs.dim() != 4:
        mistakes.append(
            f'problem.augment: "{spec.required_problem.augment}" is for images [channels, height, width]; an input of '
            f"{spec.required_problem.dataset} is {list(problem.dataset.train_inputs.shape[1:])}. Remove it"
        )
    targets = problem.dataset.train_targets
    counted = problem.has_classes and problem.dataset.token_bytes is None  # a text need not use its whole vocabulary
    if counted and (absent := problem.outputs - len(used_classes(pieces(targets)) - {IGNORED})):
        logger.warning(
            "problem: %d of %d classes have no training example; add examples, or raise train_subset",
            absent, problem.outputs,
        )  # fmt: skip
    if spec.required_problem.is_oracle:
        mistakes += _oracle_mistakes(spec, problem)
    try:
        for variant, arms in _variants(spec).items():
            with users_code(f"problem.model: {_named(variant)}"):
                task = problem.of(variant)
                mistakes += _model_mistakes(spec, variant, task, arms)
                if not mistakes and not problem.shipped:
                    check_follows_seed(task, named=_named(variant))
    except UserError as error:
        mistakes.append(str(error))
    if mistakes:
        raise StudyFileError(source, list(dict.fromkeys(mistakes)))


def _variants(spec: StudySpec) -> dict[ProblemSpec, dict[str, Arm]]:
    """Return the problem of each arm, at both ends of its axes."""
    found: dict[ProblemSpec, dict[str, Arm]] = {}
    for name, arm in spec.optimizers.items():
        axes = {key: axis for key, axis in arm.axes().items() if hyperparameter(key).table[:1] == ("problem",)}
        for end in (0, 1) if axes else (0,):
            numbers = {key: axis.bounds()[end] for key, axis in axes.items()}
            variant = spec.required_problem.fixed().having(arm.settings().get("problem", {}), numbers)
            found.setdefault(variant, {})[name] = arm
    return found


def _named(problem: ProblemSpec) -> str:
    """Return a model's name with its arguments."""
    given = ", ".join(f"{name} = {value}" for name, value in problem.model_arguments.items())
    return problem.model + f" with {given}" * bool(given)


def _oracle_mistakes(spec: StudySpec, problem: Problem) -> list[str]:
    """Return mistakes that would make the noise differ from that of the closed form."""
    size = problem.dataset.train_size
    mistakes = [
        f"batch_sizes[{k}]: {batch_size} is more than half of the noisy quadratic's {size:,} examples, so batches "
        f"and their noise would repeat; allowed: 1 to {size // 2}"
        for k, batch_size in enumerate(spec.batch_sizes)
        if size // 2 < batch_size <= size
    ]
    if spec.execution.micro_batch is not None:
        mistakes.append(
            "execution.micro_batch: the noise of the noisy quadratic is drawn for whole batches; remove it, or give "
            "problem.ghost_batch"
        )
    return mistakes


def _model_mistakes(spec: StudySpec, variant: ProblemSpec, problem: Problem, arms: Mapping[str, Arm]) -> list[str]:
    data, where = problem.dataset, f"problem.model: {_named(variant)}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = problem.build_model()
        if not any(p.requires_grad for p in model.parameters()):
            return [f"{where} has no trainable parameter"]
        if spec.execution.micro_batch is not None and (coupled := _batch_coupled(model)):
            return [
                f"execution.micro_batch: the layer {coupled} of {spec.required_problem.model} normalises over the"
                " batch, so the micro-batch changes results. Give it as problem.ghost_batch instead"
            ]
        count = min(*spec.batch_sizes, spec.required_problem.ghost_batch or _PROBE, data.train_size, _PROBE)
        for split, inputs, targets in (
            ("training", data.train_inputs[:count], data.train_targets[:count]),
            ("test", data.test_inputs[:2], data.test_targets[:2]),
        ):
            drawn = torch.random.get_rng_state()
            with no_recomputation():
                outputs = model.train(split == "training")(data.standardised(inputs).clone())
            if spec.execution.micro_batch is not None and not torch.equal(drawn, torch.random.get_rng_state()):
                return [
                    f"execution.micro_batch: {spec.required_problem.model} draws random numbers for every part of a"
                    " batch (dropout does), so the micro-batch changes results. Give it as problem.ghost_batch instead"
                ]
            classes, targets = problem.outputs if problem.has_classes else None, data.labels(targets)
            any_shape = classes is None and own_loss(variant)
            mistake = output_mistake(outputs, targets, classes=classes, split=split, any_shape=any_shape)
            if mistake is not None:
                return [f"{where} {mistake}"]
            if (mistake := loss_mistake(variant, problem, outputs, targets)) is not None:
                return [mistake]
            loss = problem.training_loss(outputs.unsqueeze(0), targets.unsqueeze(0))
            if not bool(torch.isfinite(loss).all()):
                return [f"{where}: the loss of the untrained network is {loss.item()} on {split} examples"]
            if split == "training":
                loss.sum().backward()  # type: ignore[no-untyped-call]
        if mistakes := list(metric_mistakes(problem, model)):
            return mistakes
    return list(_optimizer_mistakes(spec, arms, problem, model))


def _optimizer_mistakes(spec: StudySpec, arms: Mapping[str, Arm], problem: Problem, model: nn.Module) -> Iterator[str]:
    """Yield mistakes of optimizers that can't be used with this problem."""
    part = spec.required_problem.ghost_batch or spec.execution.micro_batch
    networks = Networks(
        network=model,
        batch_size=max(spec.batch_sizes),
        terms_per_example=problem.terms_per_example,
        ignores_terms=problem.loss.masked,
        in_parts=part is not None and part < max(spec.batch_sizes),
        loss=problem.loss_kind,
        curvature=problem.curvature,
    )
    for name, arm in arms.items():
        kind = declared_kind(arm.kind)
        rule = RULES[kind]
        if isinstance(rule, Restricted) and (why := rule.unusable(arm.settings(), networks)) is not None:
            yield f"optimizers.{name}: {why}"
        if (why := width.unusable(model, arm.kind)) is not None:
            yield f"optimizers.{name}: {why}"
        if kind == OWN:
            yield from _own_optimizer_mistakes(name, arm, model, _most_averaging(spec, arm))
        elif isinstance(rule, EvaluatesOtherParameters) and _most_averaging(spec, arm):
            yield f"optimizers.{name}.evaluation.ema_decay: {TWO_AVERAGES}"


def _most_averaging(spec: StudySpec, arm: Arm) -> float:
    """Return the largest decay of an arm's parameter averages; 0 if it has none."""
    if (axis := arm.axes().get("ema_decay")) is not None:
        return axis.bounds()[1]
    return spec.evaluation.having(arm.settings().get("evaluation", {}), {}).ema_decay


def _own_optimizer_mistakes(name: str, arm: Arm, model: nn.Module, ema_decay: float) -> Iterator[str]:
    """Build a user's optimizer at both ends of its axes and take a step, so that it reports invalid values now."""
    field = f"optimizers.{name}.kind: {arm.kind}"
    params = {key: p.detach().clone().unsqueeze(0) for key, p in model.named_parameters() if p.requires_grad}
    for end in (0, 1):
        numbers = {key: axis.bounds()[end] for key, axis in arm.axes().items()}
        try:
            with users_code(f"{field}: with {', '.join(f'{key} = {value:g}' for key, value in numbers.items())}"):
                networks = Networks(network=model, batch_size=1, member=lambda place: model)
                optimizer = PackOptimizer(arm.settings(), [numbers], params, networks, ema_decay=ema_decay)
                if optimizer.modules() is None:  # otherwise it needs a forward pass first
                    optimizer.step(params, {key: torch.ones_like(p) for key, p in params.items()}, 1.0, step=0)
        except UserError as error:
            yield str(error) if str(error).startswith(field) else f"optimizers.{name}.{error}"
            return


def _batch_coupled(model: nn.Module) -> str:
    """Return the name of a layer that couples the examples of a batch, such as BatchNorm; empty if there is none."""
    return next((name or "itself" for name, module in model.named_modules() if isinstance(module, _BatchNorm)), "")
