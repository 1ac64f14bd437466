"""User folders of images."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.results import Status
from sensitivity.study.trials import Pack, expand
from sensitivity.training.loop import train_pack
from sensitivity.training.problems import load_problem


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("SENSITIVITY_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def pixels(seed, size=(6, 8)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def write(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Two classes, three training images and one test image each, in a lossless format."""
    for k, name in enumerate(("cat", "dog")):
        for image in range(3):
            write(tmp_path / "pets" / "train" / name / f"{image}.png", pixels(10 * k + image))
        write(tmp_path / "pets" / "test" / name / "0.png", pixels(10 * k + 9))
    return tmp_path / "pets"


def load(path="pets", beside=None, **fields):
    return load_problem(ProblemSpec(dataset=f"imagefolder:{path}", **fields), folder=beside).dataset


def refused(folder, *words, **fields):
    with pytest.raises(UserError) as caught:
        load(folder, **fields)
    for word in words:
        assert word in str(caught.value)


def by_class(inputs, targets):
    """The images of each class, as sets of their bytes."""
    found = {}
    for image, target in zip(inputs, targets.tolist(), strict=True):
        found.setdefault(target, set()).add(image.numpy().tobytes())
    return found


def images_of(*seeds):
    return {pixels(seed).transpose(2, 0, 1).tobytes() for seed in seeds}


def holds(data, values):
    """Whether an image ``[channels, height, width]`` is in the training set."""
    return any(np.array_equal(image.numpy(), values) for image in data.train_inputs)


def test_classes_are_sorted_folders_and_pixels_are_as_in_the_files(folder):
    data = load(folder)
    assert data.train_inputs.shape == (6, 3, 6, 8)
    assert by_class(data.train_inputs, data.train_targets) == {0: images_of(0, 1, 2), 1: images_of(10, 11, 12)}
    assert by_class(data.test_inputs, data.test_targets) == {0: images_of(9), 1: images_of(19)}
    scaled = data.standardised(data.train_inputs)
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("fields", [{}, {"train_subset": 40}])
def test_the_first_examples_are_of_all_classes(tmp_path, fields):
    # The training loss may be measured on the first examples only.
    for k in range(30):
        for split in ("train/", "test/") if fields else ("",):
            for name in "abc":
                write(tmp_path / "many" / f"{split}{name}" / f"{k}.png", pixels(k, size=(2, 2)))
    first = load(tmp_path / "many", **fields).train_targets[:15]
    assert torch.bincount(first, minlength=3).min() >= 2


def test_relative_paths_are_next_to_the_study_or_in_the_data_folder(folder, data, tmp_path):
    assert load("pets", beside=tmp_path).train_size == 6
    with pytest.raises(UserError) as caught:
        load("pets", beside=tmp_path / "elsewhere")
    assert str(tmp_path / "elsewhere" / "pets") in str(caught.value)
    assert str(data / "pets") in str(caught.value)
    shutil.copytree(folder, data / "pets")
    assert load("pets", beside=tmp_path / "elsewhere").train_size == 6


def test_class_folders_alone_are_split_by_class_as_the_study_says(folder, tmp_path):
    for k in range(10):
        for name in ("cat", "dog"):
            write(tmp_path / "one" / name / f"{k}.png", pixels(100 * k + len(name) + ord(name[0])))
    data = load(tmp_path / "one", test_fraction=0.3)
    assert torch.bincount(data.train_targets).tolist() == [7, 7]
    assert torch.bincount(data.test_targets).tolist() == [3, 3]
    both = torch.cat((data.train_inputs, data.test_inputs))
    assert len({image.numpy().tobytes() for image in both}) == 20
    # The statistics are those of the training split.
    mean = data.train_inputs.double().mean((0, 2, 3))
    torch.testing.assert_close(data.mean.flatten().double(), mean, rtol=1e-6, atol=0)
    other = load(tmp_path / "one", test_fraction=0.3, split_seed=1)
    assert not torch.equal(other.train_inputs, data.train_inputs)
    refused(
        tmp_path / "one",
        "test_fraction: 0.05 of 20 examples leaves 19",
        test_fraction=0.05,
    )


def test_images_are_decoded_once_for_their_content(folder, data, tmp_path, monkeypatch):
    first = load(folder)
    assert len(first.fingerprint) == 16
    (kept,) = (data / "arrays").iterdir()
    shutil.copytree(folder, tmp_path / "copy")  # the same images elsewhere are the same data
    with monkeypatch.context() as context:
        context.setattr("sensitivity.training.datasets.image_folder._decode", None)
        assert load(tmp_path / "copy").fingerprint == first.fingerprint
    write(folder / "train" / "cat" / "3.png", pixels(77))
    changed = load(folder)
    assert changed.train_size == 7
    assert changed.fingerprint != first.fingerprint
    assert kept in set((data / "arrays").iterdir())


def test_a_file_renamed_into_another_class_is_other_data(folder):
    before = load(folder).fingerprint
    (folder / "train" / "cat" / "2.png").rename(folder / "train" / "dog" / "3.png")
    assert load(folder).fingerprint != before


def test_mixed_grayscale_and_colour_images_become_colour(folder, caplog):
    gray = pixels(5)[..., 0]
    write(folder / "train" / "cat" / "0.png", gray)
    data = load(folder)
    assert holds(data, np.stack([gray] * 3))
    assert "1 of 8 images are grayscale, the others in colour; all are read as colour" in caplog.text


def test_grayscale_images_have_one_channel(tmp_path):
    for split in ("train", "test"):
        for k, name in enumerate("ab"):
            write(tmp_path / "gray" / split / name / "x.png", pixels(k)[..., 0])
    data = load(tmp_path / "gray")
    assert data.train_inputs.shape == (2, 1, 6, 8)
    assert holds(data, pixels(1)[None, ..., 0])


def test_palettes_and_transparency_become_colour(folder):
    colours = Image.fromarray(pixels(0)).quantize(256)
    colours.save(folder / "train" / "cat" / "0.png")
    clear = np.dstack((pixels(1), np.full((6, 8), 128, np.uint8)))
    write(folder / "train" / "cat" / "1.png", clear)
    data = load(folder)
    assert holds(data, np.asarray(colours.convert("RGB")).transpose(2, 0, 1))
    assert holds(data, pixels(1).transpose(2, 0, 1))


def test_exif_orientation_is_applied(folder):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    write(folder / "train" / "cat" / "0.png", pixels(0), exif=exif)
    assert holds(load(folder), pixels(0)[::-1, ::-1].transpose(2, 0, 1))


def test_an_image_taken_upright_has_its_sides_changed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "test"):
        for name in "ab":
            write(tmp_path / "up" / split / name / "0.png", pixels(0), exif=exif)
            write(tmp_path / "up" / split / name / "1.png", np.rot90(pixels(0), -1).copy())
    images = load(tmp_path / "up").train_inputs
    assert images.shape == (4, 3, 8, 6)
    assert len({image.numpy().tobytes() for image in images}) == 1


def test_several_sizes_need_an_image_size(folder):
    write(folder / "train" / "dog" / "0.png", pixels(3, size=(12, 24)))
    refused(folder, "images of different sizes: ", "8×6 (train/cat/", "24×12 (train/dog/0.png)", "problem.image_size")
    data = load(folder, image_size=4)
    assert data.train_inputs.shape == (6, 3, 4, 4)


def test_the_centre_is_cut_out(folder):
    values = np.zeros((6, 18, 3), np.uint8)
    values[:, 6:12] = 200  # a square in the middle of a wide image
    write(folder / "train" / "dog" / "0.png", values)
    assert holds(load(folder, image_size=6), np.full((3, 6, 6), 200))


def test_deep_images_are_refused(folder):
    write(folder / "train" / "cat" / "0.png", pixels(0)[..., 0].astype(np.uint16) * 200)
    refused(folder, "more than 8 bits a channel: train/cat/0.png", "Convert")


@pytest.mark.parametrize("damage", ["no image", "cut in the pixels", "empty"])
def test_corrupted_images_are_all_named(folder, data, damage):
    for name in ("0.png", "2.png"):
        path = folder / "train" / "dog" / name
        raw = path.read_bytes()
        path.write_bytes({"no image": b"hello", "cut in the pixels": raw[: len(raw) // 2], "empty": b""}[damage])
    refused(folder, "2 of 8 images can't be read:", "train/dog/0.png: ", "train/dog/2.png: ", "Replace or remove them")
    assert not list((data / "arrays").iterdir()), "nothing half decoded is left"


def test_a_link_to_nowhere_is_named(folder):
    (folder / "train" / "dog" / "0.png").unlink()
    (folder / "train" / "dog" / "0.png").symlink_to(folder / "gone.png")
    refused(folder, "dog/0.png: can't be read (No such file or directory)")


def test_invalid_image_folders_are_reported(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "test" / "dog")
    refused(tmp_path / "a", "train/ and test/ must have the same class folders; only one has dog")
    shutil.copytree(folder, tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "test")
    refused(tmp_path / "b", "there is train/ but no test/", "test_fraction then splits them")
    shutil.copytree(folder, tmp_path / "c")
    for path in (tmp_path / "c" / "train" / "cat").iterdir():
        path.unlink()
    refused(tmp_path / "c", "train/cat: contains no images")
    shutil.copytree(folder, tmp_path / "d")
    (tmp_path / "d" / "train" / "cat" / "notes.txt").write_text("")
    (tmp_path / "d" / "train" / "cat" / ".hidden").write_text("")
    refused(tmp_path / "d", "train/cat: no images: notes.txt")
    (tmp_path / "e").mkdir()
    refused(tmp_path / "e", "0 class folders; there must be at least two")
    write(tmp_path / "f" / "x" / "0.png", pixels(0))
    write(tmp_path / "f" / "y" / "0.png", pixels(1))
    refused(tmp_path / "f", "one image can't be split")
    refused(tmp_path / "nowhere", "there is no folder", "train/CLASS/IMAGE")


def test_workers_that_start_together_decode_once(folder, data, tmp_path):
    script = """
import json, sys
from sensitivity.study.problem import ProblemSpec
from sensitivity.training.datasets import image_folder
from sensitivity.training.datasets.load import load_dataset
decoded, real = [], image_folder._decode
def counted(*arguments):
    import time
    decoded.append(1)
    time.sleep(0.3)  # so that the others meet it at work
    return real(*arguments)
image_folder._decode = counted
print("ready", flush=True)
sys.stdin.readline()
dataset = load_dataset(ProblemSpec(dataset=sys.argv[1]), folder=None)
print(json.dumps([len(decoded), int(dataset.train_inputs.sum())]))
"""
    command = [sys.executable, "-c", script, f"imagefolder:{folder}"]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    found = [json.loads(worker.communicate(timeout=300)[0]) for worker in workers]
    assert sum(decoded for decoded, _ in found) == 1
    assert {total for _, total in found} == {int(load(folder).train_inputs.sum())}


def test_leftovers_of_killed_workers_do_not_interfere(folder, data):
    load(folder)
    (kept,) = (data / "arrays").iterdir()
    kept.rename(kept.with_name(f".{kept.name}"))  # killed just before the folder was renamed
    assert load(folder).train_size == 6
    assert [path.name for path in (data / "arrays").iterdir()] == [kept.name]


@pytest.mark.parametrize(("kind", "model"), [("sgd", "resnet20"), ("kfac", "small_cnn")])
def test_images_train_in_packs_as_alone_augmented_and_in_ghost_batches(folder, make_study, kind, model):
    spec = make_study(
        problem={
            "dataset": f"imagefolder:{folder}",
            "image_size": 8,
            "model": model,
            "augment": "crop_flip",
            "ghost_batch": 2,
        },
        batch_sizes=[4],
        seeds=2,
        budget={"steps": 3},
        optimizers={"a": {"kind": kind, "lr": [0.01, 0.02], **({"damping": 1.0} if kind == "kfac" else {})}},
    )
    problem = load_problem(spec.problem, dtype=torch.float64)
    for packed in train_pack(Pack(expand(spec)), problem):
        (alone,) = train_pack(Pack((packed.trial,)), problem)
        assert packed.status is Status.COMPLETED
        assert packed.measurements[-1].train_loss == pytest.approx(alone.measurements[-1].train_loss, rel=1e-8)
    plain = make_study(
        **{
            **spec.model_dump(mode="json", include={"batch_sizes", "budget", "optimizers"}),
            "problem": {**spec.problem.model_dump(mode="json"), "augment": "none"},
        }
    )
    (unaugmented, *_) = train_pack(Pack(expand(plain)), problem)
    assert unaugmented.measurements[-1].train_loss != pytest.approx(alone.measurements[-1].train_loss, rel=1e-4)


def classes(root, *names):
    """Write class folders with two images each."""
    for k, name in enumerate(names):
        for image in range(2):
            write(root / name / f"{image}.png", pixels(10 * k + image))
    return root


def test_a_class_may_be_called_train(tmp_path):
    data = load(classes(tmp_path / "ways", "bus", "test", "train"), test_fraction=0.5)
    assert torch.bincount(data.train_targets).tolist() == [1, 1, 1]
    whole = torch.cat((data.train_inputs, data.test_inputs)), torch.cat((data.train_targets, data.test_targets))
    assert by_class(*whole) == {0: images_of(0, 1), 1: images_of(10, 11), 2: images_of(20, 21)}


SPLITS = [
    (["train", "test"], [], "test/, train/ contain images, but no class folders", "train/CLASS/IMAGE and test/CLASS"),
    (["train", "val"], [], "train/, val/ contain images, but no class folders", "train/CLASS/IMAGE and test/CLASS"),
    ([], ["train", "val"], "there is val/ in place of test/", "Rename val/ to test/"),
    ([], ["Train", "Test"], "there is Train/ in place of train/ and Test/ in place of test/", "Rename Train/ to"),
    ([], ["train", "validation", "other"], "there is validation/ in place of test/", "Rename validation/ to test/"),
    ([], ["train", "bus"], "there is train/ but no test/", "put the class folders into the folder itself"),
    (["test"], ["train"], "train/ contains class folders, but test/ does not", "Put its images into test/CLASS/IMAGE"),
    (["train/a", "train", "test/a"], [], "train/ contains images and folders", "Move the images into the folders"),
    ([], ["bus", "car"], "bus/, car/ contain folders, not images", "Give train/CLASS/IMAGE and test/CLASS/IMAGE"),
]  # fmt: skip


@pytest.mark.parametrize(("of_images", "of_classes", "said", "fix"), SPLITS, ids=[said for *_, said, _ in SPLITS])
def test_splits_and_classes_are_distinguished_by_content(tmp_path, of_images, of_classes, said, fix):
    root = classes(tmp_path / "root", *of_images)
    for name in of_classes:
        classes(root / name, "a", "b")
    refused(root, said, fix)


def test_folders_beside_the_splits_are_named(folder, caplog):
    classes(folder / "val", "cat", "dog")
    classes(folder, "val")
    assert load(folder).train_size == 6
    assert "only train/ and test/ are read, not val" in caplog.text


def test_names_that_are_not_utf8_are_read(folder, tmp_path, caplog):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.rename(odd)
    before = load(odd).fingerprint
    for split in ("train", "test"):
        (odd / split / "cat").rename(odd / split / os.fsdecode(b"c\xfft"))
    (odd / "train" / "dog" / "0.png").rename(odd / "train" / "dog" / os.fsdecode(b"\xff.png"))
    data = load(odd)
    assert by_class(data.train_inputs, data.train_targets) == {0: images_of(0, 1, 2), 1: images_of(10, 11, 12)}
    assert data.fingerprint != before
    (odd / "train" / "dog" / os.fsdecode(b"\xff.png")).write_bytes(b"no image")
    refused(odd, "train/dog/\\udcff.png: ")


NFC, NFD = "caf\u00e9", "cafe\u0301"


def test_names_that_differ_in_unicode_form_only_are_distinguished(tmp_path):
    refused(classes(tmp_path / "one", NFC, NFD), r"'cafe\u0301' and 'caf\xe9' have one name in different Unicode forms")
    for split, name in (("train", NFC), ("test", NFD)):
        classes(tmp_path / "two" / split, "tea", name)
    refused(tmp_path / "two", r"'cafe\u0301' and 'caf\xe9' have one name in different Unicode forms", "--nfc")
    assert load(classes(tmp_path / "fine", NFC, "tea"), test_fraction=0.5).train_size == 2


HOSTILE = [
    b"a\nb",
    b" ",
    b"'",
    b'"',
    b"\x1b[31mred",
    b"-rf",
    b"~",
    b"\xe2\x80\xae",
    b"\xff\xfe",
    b"CON",
    b"x" * 255,
    b"*",
]


def test_any_name_is_a_class(tmp_path):
    data = load(classes(tmp_path / "any", *map(os.fsdecode, HOSTILE)), test_fraction=0.5)
    assert torch.bincount(data.train_targets).tolist() == [1] * len(HOSTILE)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("~no-such-user-here/x", "problem.dataset '~no-such-user-here/x': there is no such home folder"),
        ("a\0b", "there is no folder 'a\\x00b'; tried"),
        ("x" * 5000, "can't be read (File name too long)\n  Give the path of a readable folder"),
        ("loop", "there is no folder 'loop'; tried"),
        ("file", "there is no folder 'file'; tried"),
    ],
    ids=["home", "NUL", "long", "loop", "file"],
)
def test_a_path_that_is_no_folder_is_a_message(tmp_path, path, said):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        load(path, beside=tmp_path)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 2_000


def test_a_folder_that_cannot_be_read_is_a_message(folder, monkeypatch):
    real = os.scandir

    def refuse(path):
        if Path(path).name == "train":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("os.scandir", refuse)
    refused(folder, "train: can't be read (Permission denied)", "Make it and its subfolders readable")


def test_links_in_a_circle_are_a_message(folder):
    (folder / "train" / "cat" / "9.png").symlink_to(folder / "train" / "cat" / "9.png")
    refused(folder, "cat/9.png: can't be read (Too many levels of symbolic links)")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("file", "/file can't be written ("),
        ("file/below", "can't be written (Not a directory)"),
        ("~no-such-user-here", "SENSITIVITY_DATA '~no-such-user-here': there is no such home folder"),
    ],
)
def test_a_data_folder_that_is_none_is_a_message(folder, monkeypatch, tmp_path, named, said, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SENSITIVITY_DATA", named if named.startswith("~") else str(tmp_path / named))
    refused(folder, said)
    assert "is damaged" not in caplog.text
