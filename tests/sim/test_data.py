import errno
import hashlib
import math
import shutil
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from sim import data
from sim.data import _cifar10

RECORD = 3073
NAMES = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]


def sparse(path, records=10_000):
    """A file of zeros that takes no disk: label 0, black pixels."""
    with path.open("wb") as file:
        file.truncate(records * RECORD)


def write_record(path, number, label, pixels):
    with path.open("r+b") as file:
        file.seek(number * RECORD)
        file.write(bytes([label]) + bytes(pixels))


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        sparse(tmp_path / name)
    return tmp_path


# digits


def test_digits_are_scikit_learns_normalised_by_the_training_split():
    bunch = load_digits()
    whole = data.load("digits", split="all")
    train, test = data.load("digits"), data.load("digits", split="test")
    assert train.inputs.dtype == torch.float32
    assert train.targets.dtype == torch.int64
    assert torch.equal(torch.cat([train.inputs, test.inputs]), whole.inputs)
    assert torch.cat([train.targets, test.targets]).tolist() == bunch.target.tolist()
    norm = whole.provenance["normalisation"]
    pixels = bunch.images[700] / norm["scale"]
    np.testing.assert_allclose(
        whole.inputs[700, 0], (pixels - norm["mean"][0]) / norm["std"][0], rtol=1e-6, atol=1e-6
    )
    # The constants are given to four digits.
    assert abs(float(train.inputs.mean())) < 2e-4
    assert abs(float(train.inputs.std()) - 1) < 2e-4
    assert whole.provenance["sizes"] == {"train": len(train), "test": len(test)}


def test_digits_splits_hold_every_class_in_fair_shares():
    for split in ("train", "test"):
        set_ = data.load("digits", split=split)
        counts = np.bincount(set_.targets.numpy(), minlength=10)
        assert counts.min() > 0.08 * len(set_)


def test_digits_hash_is_of_the_images_and_labels():
    bunch = load_digits()
    raw = bunch.images.astype("u1").tobytes() + bunch.target.astype("u1").tobytes()
    assert data.load("digits").provenance["sha256"] == hashlib.sha256(raw).hexdigest()


# cifar10


def test_cifar10_reads_label_and_planes_in_order(folder):
    rng = np.random.default_rng(0)
    wanted = {}
    for file, number in ((0, 0), (3, 9_999), (4, 17)):
        label, pixels = int(rng.integers(10)), rng.integers(0, 256, 3072)
        write_record(folder / NAMES[file], number, label, pixels.tolist())
        wanted[file * 10_000 + number] = label, pixels
    set_ = data.load("cifar10", folder)
    assert set_.inputs.shape == (50_000, 3, 32, 32)
    assert (set_.inputs.dtype, set_.targets.dtype) == (torch.float32, torch.int64)
    norm = set_.provenance["normalisation"]
    for index, (label, pixels) in wanted.items():
        assert set_.targets[index] == label
        for channel, row, column in ((0, 0, 0), (0, 0, 1), (1, 31, 5), (2, 7, 31)):
            byte = pixels[channel * 1024 + row * 32 + column]
            expected = (byte / 255 - norm["mean"][channel]) / norm["std"][channel]
            assert math.isclose(set_.inputs[index, channel, row, column], expected, abs_tol=1e-5)
    assert int(set_.targets.count_nonzero()) == sum(label > 0 for label, _ in wanted.values())
    sha = hashlib.sha256(b"".join((folder / name).read_bytes() for name in NAMES[:5]))
    assert set_.provenance["sha256"] == sha.hexdigest()
    assert set_.provenance["sizes"] == {"train": 50_000, "test": 10_000}


def test_cifar10_test_split_and_the_folder_around(folder, tmp_path, monkeypatch):
    write_record(folder / "test_batch.bin", 2, 7, [255] * 3072)
    inner = tmp_path / "outer" / "cifar-10-batches-bin"
    inner.mkdir(parents=True)
    (folder / "test_batch.bin").rename(inner / "test_batch.bin")
    set_ = data.load("cifar10", tmp_path / "outer", split="test")
    assert len(set_) == 10_000
    assert set_.targets[2] == 7
    monkeypatch.setenv("CBLR_DATA", str(tmp_path / "outer"))
    assert torch.equal(data.load("cifar10", split="test").inputs, set_.inputs)


def test_cifar10_without_a_root(monkeypatch):
    monkeypatch.delenv("CBLR_DATA", raising=False)
    with pytest.raises(ValueError, match=r"^root: not given, and .* CBLR_DATA .*--data DIR.*$"):
        data.load("cifar10")


def test_cifar10_root_that_does_not_exist(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"^root: '.*nowhere' is not a folder; unpack"):
        data.load("cifar10", tmp_path / "nowhere")
    monkeypatch.setenv("CBLR_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"^CBLR_DATA: '.*nowhere' is not a folder"):
        data.load("cifar10")


def test_cifar10_missing_file(folder):
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"^root: data_batch_4.bin is missing in .*unpack"):
        data.load("cifar10", folder)
    assert len(data.load("cifar10", folder, split="test")) == 10_000


@pytest.mark.parametrize("records", [9_999, 10_001, 0])
def test_cifar10_file_of_another_size(folder, records):
    sparse(folder / "test_batch.bin", records)
    with pytest.raises(ValueError, match=rf"has {records * RECORD} bytes instead of 30730000"):
        data.load("cifar10", folder, split="test")


def test_cifar10_label_out_of_range(folder):
    write_record(folder / "test_batch.bin", 123, 10, [0])
    with pytest.raises(ValueError, match=r"test_batch.bin' has the label 10 in record 123, but"):
        data.load("cifar10", folder, split="test")
    write_record(folder / "test_batch.bin", 123, 9, [0])
    assert data.load("cifar10", folder, split="test").targets[123] == 9


def test_errors_are_one_line(folder):
    (folder / "test_batch.bin").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        data.load("cifar10", folder, split="test")
    assert "\n" not in str(caught.value)


@pytest.fixture
def archive(folder, tmp_path, monkeypatch):
    """A local archive in the published layout, its checksum in the place of the published one."""
    path = tmp_path / "local.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name in NAMES:
            tar.add(folder / name, f"cifar-10-batches-bin/{name}")
    monkeypatch.setattr(_cifar10, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_download_unpacks_where_load_looks_and_only_once(archive, tmp_path):
    fetched = []

    def downloader(url, target, _):
        fetched.append(url)
        shutil.copy(archive, target)

    root = tmp_path / "new"
    assert data.download_cifar10(root, downloader=downloader) == root / "cifar-10-batches-bin"
    assert len(data.load("cifar10", root, split="test")) == 10_000
    data.download_cifar10(root, downloader=downloader)
    assert fetched == ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]


def test_download_refuses_another_archive(archive, tmp_path):
    def downloader(url, target, _):
        with open(target, "wb") as file:
            file.write(archive.read_bytes() + b"\0")

    with pytest.raises(ValueError, match="hash"):
        data.download_cifar10(tmp_path / "new", downloader=downloader)
    assert not (tmp_path / "new" / "cifar-10-batches-bin").exists()


def test_download_without_a_network(tmp_path):
    def downloader(url, target, _):
        raise OSError("as requests says it, on pages")

    with pytest.raises(ConnectionError, match=r"https://.* cannot be fetched \(OSError\); see"):
        data.download_cifar10(tmp_path / "new", downloader=downloader)

    def full(url, target, _):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device"):
        data.download_cifar10(tmp_path / "new", downloader=full)


def test_the_published_checksum():
    assert _cifar10.SHA256 == "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"


# gaussian


def test_gaussian_has_the_law_it_names():
    options = {"samples": 40_000, "features": 3, "classes": 4, "separation": 2.0, "seed": 5}
    train = data.load("gaussian", **options)
    test = data.load("gaussian", split="test", **options)
    assert not torch.equal(train.inputs, test.inputs)
    for label in range(4):
        x, y = (s.inputs[s.targets == label].double() for s in (train, test))
        # A quarter of 40000 samples: standard errors 0.01 of a mean, 0.007 of a deviation.
        assert abs(len(x) - 10_000) < 5 * 87
        assert float((x.mean(0) - y.mean(0)).abs().max()) < 5 * 0.01 * math.sqrt(2)
        assert float((x.std(0) - 1).abs().max()) < 5 * 0.007
    many = data.load("gaussian", samples=20_000, features=50, classes=100, separation=3.0)
    means = torch.stack([many.inputs[many.targets == c].mean(0) for c in range(100)])
    # 5000 means of deviation 3, each blurred by 1/sqrt(200): relative standard error 1%.
    assert abs(float(means.std()) / math.sqrt(9 + 1 / 200) - 1) < 0.05


def test_gaussian_is_seeded_and_all_is_train_then_test():
    small = {"samples": 7, "features": 2}
    a, b = data.load("gaussian", **small), data.load("gaussian", **small)
    assert torch.equal(a.inputs, b.inputs)
    assert a.provenance["sha256"] == b.provenance["sha256"]
    assert not torch.equal(a.inputs, data.load("gaussian", seed=1, **small).inputs)
    whole, test = (data.load("gaussian", split=split, **small) for split in ("all", "test"))
    assert torch.equal(whole.inputs, torch.cat([a.inputs, test.inputs]))


# the arguments of load


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnist"}, r"^name: unknown value 'mnist'; choose one of cifar10, digits, gauss"),
        ({"name": None}, r"^name: unknown value None"),
        ({"name": "digits", "split": "dev"}, r"^split: unknown value 'dev'; .* all, test, train$"),
        ({"name": "digits", "samples": 3}, r"^samples: no such option for the data set 'digits'; "),
        ({"name": "digits", "root": "x"}, r"^root: got 'x', but digits needs no files; leave"),
        ({"name": "gaussian", "root": "x"}, r"^root: got 'x', but gaussian needs no files; leave"),
        ({"name": "gaussian", "samples": 0}, r"^samples: got 0; give a whole number at least 1"),
        ({"name": "gaussian", "features": 1.5}, r"^features: got 1.5; give a whole number"),
        ({"name": "gaussian", "classes": True}, r"^classes: got True; give a whole number"),
        ({"name": "gaussian", "separation": -1}, r"^separation: got -1; give a number at least 0"),
        ({"name": "gaussian", "seed": -1}, r"^seed: got -1; give a whole number at least 0"),
    ],
)
def test_load_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**arguments)


# the data set


def toy(n):
    return data.Dataset(torch.arange(float(n))[:, None], torch.arange(n) % 3, "toy", 3, "train")


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"^targets: shape \(2,\) for inputs of shape \(3, 1\)"):
        data.Dataset(torch.zeros(3, 1), torch.zeros(2).long(), "toy", 1, "train")


@given(n=st.integers(1, 40), seed=st.integers(0, 5), part=st.data())
def test_a_subset_keeps_pairs_and_is_nested(n, seed, part):
    whole = toy(n)
    k = part.draw(st.integers(1, n))
    taken = whole.subset(k, seed)
    index = taken.inputs[:, 0].long()
    assert len(set(index.tolist())) == k
    assert torch.equal(taken.targets, index % 3)
    assert torch.equal(taken.inputs, whole.subset(n, seed).inputs[:k])
    assert taken.provenance["subset"] == {"n": k, "of": n, "seed": seed}


def test_subsets_of_other_seeds_differ_and_leave_the_global_state():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert not torch.equal(toy(50).subset(10, 0).inputs, toy(50).subset(10, 1).inputs)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@given(
    n=st.integers(1, 40), drop_last=st.booleans(), seed=st.none() | st.integers(0, 5), d=st.data()
)
def test_batches_cover_the_set_once(n, drop_last, seed, d):
    size = d.draw(st.integers(1, n))
    batches = toy(n).batches(size, drop_last=drop_last, seed=seed)
    pairs = list(batches)
    assert len(pairs) == len(batches) == (n // size if drop_last else math.ceil(n / size))
    assert all(len(x) == size for x, _ in pairs[: n // size])
    index = torch.cat([x[:, 0] for x, _ in pairs]).long()
    assert len(set(index.tolist())) == len(index) == (n // size * size if drop_last else n)
    assert torch.equal(torch.cat([y for _, y in pairs]), index % 3)
    assert torch.equal(torch.cat([x[:, 0] for x, _ in batches]).long(), index)
    if seed is None:
        assert index.tolist() == list(range(len(index)))


def test_batches_of_other_seeds_differ():
    def order(seed):
        return [x.ravel().tolist() for x, _ in toy(30).batches(7, seed=seed)]

    assert order(0) != order(1) != order(None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.subset(0), r"^n: got 0; give a whole number from 1 to 4$"),
        (lambda s: s.subset(5), r"^n: got 5; give a whole number from 1 to 4$"),
        (lambda s: s.subset(2, seed=-1), r"^seed: got -1"),
        (lambda s: s.batches(0), r"^batch_size: got 0; give a whole number from 1 to 4$"),
        (lambda s: s.batches(5), r"^batch_size: got 5"),
    ],
)
def test_sizes_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call(toy(4))


def test_to_moves_both():
    moved = toy(4).to("meta")
    assert {moved.inputs.device.type, moved.targets.device.type} == {"meta"}


def test_a_data_set_shows_itself_in_a_line():
    assert repr(data.load("digits")) == "Dataset(digits, train: (1437, 1, 8, 8), 10 classes)"
