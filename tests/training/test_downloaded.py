"""The loading code on tiny archives in each data set's original format, from a local server."""

import functools
import gzip
import hashlib
import http.server
import io
import pickle
import socket
import struct
import tarfile
import threading
from typing import ClassVar

import numpy as np
import pytest
import scipy.io
import torch

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.training.datasets.torchvision_import import torchvision_datasets
from sensitivity.training.problems import load_problem


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def pixels(count, channels, size, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


class Quiet(http.server.SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        Quiet.asked.append(self.path)
        super().do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path):
    """A folder and the address at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    Quiet.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("SENSITIVITY_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def publish_cifar(monkeypatch, server, name="CIFAR10", labels="labels"):
    folder, url = server
    cls = getattr(torchvision_datasets(), name)
    archive, files, arrays = io.BytesIO(), {}, {}
    names = [entry[0] for entry in cls.train_list + cls.test_list]
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for k, file_name in enumerate([*names, cls.meta["filename"]]):
            if file_name in names:
                images = arrays[file_name] = pixels(4, 3, 32, k)
                content = {"data": images.reshape(4, -1), labels: [k, (k + 1) % 10, 2, 9]}
            else:
                content = {cls.meta["key"]: [str(c) for c in range(10)]}
            raw = files[file_name] = pickle.dumps(content)
            info = tarfile.TarInfo(f"{cls.base_folder}/{file_name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    (folder / cls.filename).write_bytes(archive.getvalue())
    monkeypatch.setattr(cls, "url", url + cls.filename)
    monkeypatch.setattr(cls, "tgz_md5", md5(archive.getvalue()))
    monkeypatch.setattr(cls, "train_list", [[n, md5(files[n])] for n, _ in cls.train_list])
    monkeypatch.setattr(cls, "test_list", [[n, md5(files[n])] for n, _ in cls.test_list])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5(files[cls.meta["filename"]])})
    train = np.concatenate([arrays[n] for n, _ in cls.train_list])
    return train, arrays[cls.test_list[0][0]], folder / cls.filename


def publish_mnist(monkeypatch, server, name="MNIST"):
    folder, url = server
    cls = getattr(torchvision_datasets(), name)
    resources, images = [], {}
    for k, (file_name, _) in enumerate(cls.resources):
        count = 6 if "train" in file_name else 3
        if "images" in file_name:
            images[file_name[:5]] = values = pixels(count, 1, 28, k)
            raw = struct.pack(">iiii", 0x0803, count, 28, 28) + values.tobytes()
        else:
            raw = struct.pack(">ii", 0x0801, count) + bytes(range(count))
        packed = gzip.compress(raw)
        (folder / file_name).write_bytes(packed)
        resources.append((file_name, md5(packed)))
    monkeypatch.setattr(cls, "mirrors", [url])
    monkeypatch.setattr(cls, "resources", resources)
    return images["train"], images["t10k-"]


def publish_svhn(monkeypatch, server):
    folder, url = server
    splits, images = {}, {}
    for k, split in enumerate(("train", "test")):
        images[split] = pixels(5, 3, 32, k)
        file_name = f"{split}_32x32.mat"
        # As in the original, the digit 0 has the label 10.
        scipy.io.savemat(
            folder / file_name, {"X": images[split].transpose(2, 3, 1, 0), "y": np.array([[10], [1], [2], [3], [9]])}
        )
        splits[split] = [url + file_name, file_name, md5((folder / file_name).read_bytes())]
    monkeypatch.setattr(torchvision_datasets().SVHN, "split_list", splits)
    return images["train"], images["test"]


def load(name):
    return load_problem(ProblemSpec(dataset=name, model="lenet"), dtype=torch.float64).dataset


def same(dataset, train, test):
    assert dataset.train_inputs.dtype == torch.uint8
    assert np.array_equal(dataset.train_inputs.numpy(), train)
    assert np.array_equal(dataset.test_inputs.numpy(), test)
    scaled = dataset.standardised(dataset.train_inputs)
    dims = (0, 2, 3)
    torch.testing.assert_close(scaled.mean(dims), torch.zeros(train.shape[1]).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(scaled.std(dims, correction=0), torch.ones(train.shape[1]).double())
    mean, deviation = train.mean((0, 2, 3)), train.std((0, 2, 3))
    by_hand = (test - mean[:, None, None]) / deviation[:, None, None]
    np.testing.assert_allclose(dataset.standardised(dataset.test_inputs).numpy(), by_hand, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "class_name", "labels"), [("cifar10", "CIFAR10", "labels"), ("cifar100", "CIFAR100", "fine_labels")]
)
def test_cifar(monkeypatch, server, name, class_name, labels):
    train, test, _ = publish_cifar(monkeypatch, server, class_name, labels)
    dataset = load(name)
    same(dataset, train, test)
    assert dataset.train_targets.tolist() == [c for k in range(len(train) // 4) for c in (k, k + 1, 2, 9)]
    assert dataset.fingerprint == ""


@pytest.mark.parametrize(("name", "class_name"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist(monkeypatch, server, name, class_name):
    train, test = publish_mnist(monkeypatch, server, class_name)
    dataset = load(name)
    same(dataset, train, test)
    assert dataset.train_targets.tolist() == list(range(6))


def test_svhn_has_its_zeros_as_class_zero(monkeypatch, server):
    train, test = publish_svhn(monkeypatch, server)
    dataset = load("svhn")
    same(dataset, train, test)
    assert dataset.test_targets.tolist() == [0, 1, 2, 3, 9]


def test_data_are_downloaded_and_decoded_once(monkeypatch, server, data):
    publish_cifar(monkeypatch, server)
    first = load("cifar10")
    asked = len(Quiet.asked)
    monkeypatch.setattr(torchvision_datasets(), "CIFAR10", None)  # torchvision is not needed any more
    again = load("cifar10")
    assert torch.equal(first.train_inputs, again.train_inputs)
    assert len(Quiet.asked) == asked > 0
    assert [path.name for path in (data / "arrays").iterdir()] == ["cifar10"]


def test_a_half_finished_download_is_done_again(monkeypatch, server, data):
    train, test, archive = publish_cifar(monkeypatch, server)
    partial = data / "downloads" / "cifar10" / archive.name
    partial.parent.mkdir(parents=True)
    partial.write_bytes(archive.read_bytes()[:100])
    same(load("cifar10"), train, test)


def test_a_half_unpacked_archive_is_unpacked_again(monkeypatch, server, data):
    train, test = publish_mnist(monkeypatch, server)
    raw = data / "downloads" / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images", "t10k-images"):  # torchvision would use them without verification
        (raw / f"{name}-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    for name in ("train-labels", "t10k-labels"):
        (raw / f"{name}-idx1-ubyte").write_bytes(b"")
    same(load("mnist"), train, test)


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "about"])
def test_damaged_arrays_are_decoded_again_with_a_warning(monkeypatch, server, data, caplog, damage):
    train, test, _ = publish_cifar(monkeypatch, server)
    load("cifar10")
    array = data / "arrays" / "cifar10" / "images.npy"
    raw = array.read_bytes()
    if damage == "cut":
        array.write_bytes(raw[:-10])
    elif damage == "changed":
        array.write_bytes(raw[:-10] + bytes([raw[-10] ^ 1]) + raw[-9:])
    elif damage == "missing":
        array.unlink()
    else:
        (array.parent / "about.json").write_text("{")
    same(load("cifar10"), train, test)
    assert damage == "missing" or "is damaged and will be created again" in caplog.text


def test_without_a_network_the_fix_names_the_files(monkeypatch, server, data):
    _, _, archive = publish_cifar(monkeypatch, server)
    content = archive.read_bytes()
    archive.unlink()
    with pytest.raises(UserError) as caught:
        load("cifar10")
    place = data / "downloads" / "cifar10" / archive.name
    assert str(caught.value).startswith("the data set cifar10 can't be downloaded (HTTP Error 404")
    assert str(place) in str(caught.value)
    place.write_bytes(content)  # the fix given by the message
    load("cifar10")


def test_an_unresponsive_server_times_out(monkeypatch, server, data):
    publish_cifar(monkeypatch, server)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections but never answers
        monkeypatch.setattr(torchvision_datasets().CIFAR10, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/x")
        monkeypatch.setattr("sensitivity.training.datasets.downloaded._SILENCE_S", 0.05)
        with pytest.raises(UserError, match=r"cifar10 can't be downloaded \(.*timed out"):
            load("cifar10")
    assert socket.getdefaulttimeout() is None


def test_files_of_the_user_survive_a_failed_download(monkeypatch, server, data):
    publish_svhn(monkeypatch, server)
    served = server[0] / "train_32x32.mat"
    place = data / "downloads" / "svhn" / served.name
    place.parent.mkdir(parents=True)
    served.rename(place)
    (server[0] / "test_32x32.mat").unlink()
    with pytest.raises(UserError, match=r"svhn can't be downloaded(.|\n)*test_32x32\.mat"):
        load("svhn")
    assert place.is_file()


def test_an_unwritable_data_folder_is_reported(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SENSITIVITY_DATA", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"data folder .*file can't be written(.|\n)*SENSITIVITY_DATA"):
        load("cifar10")


@pytest.mark.parametrize(("field", "size"), [("train_subset", 20), ("test_subset", 4)])
def test_a_subset_is_drawn_from_the_split_seed(monkeypatch, server, field, size):
    publish_cifar(monkeypatch, server)

    def drawn(count, seed=0):
        spec = ProblemSpec(dataset="cifar10", model="lenet", split_seed=seed, **{field: count})
        return getattr(load_problem(spec).dataset, field.replace("subset", "inputs"))

    whole = {image.numpy().tobytes() for image in drawn(size)}
    some = [image.numpy().tobytes() for image in drawn(3)]
    assert len(set(some)) == 3
    assert set(some) < whole
    assert torch.equal(drawn(3), drawn(3))
    assert any(not torch.equal(drawn(3), drawn(3, seed)) for seed in (1, 2, 3))
    with pytest.raises(UserError, match=rf"problem\.{field}: {size + 1} is more than .* allowed: 1 to {size}"):
        drawn(size + 1)


def test_an_incompatible_torchvision_is_reported(monkeypatch):
    def absent(name):
        raise ImportError("undefined symbol: _ZN3c10\nmore")

    torchvision_datasets.cache_clear()
    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(UserError, match=r"\(undefined symbol: _ZN3c10\)\n  Install the release for torch 2"):
        torchvision_datasets()
