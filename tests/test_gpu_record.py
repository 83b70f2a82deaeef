"""The stages of `make gpu-record`, in small on the CPU, and how they go on where they stopped."""

import importlib.util
import json
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("gpu_record", ROOT / "benchmarks" / "gpu_record.py")
gpu_record = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gpu_record)
STAGES = gpu_record.gpu_stages.STAGES
FACTS = {"torch": "of the test"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_dry_run_of_every_stage(stage, tmp_path, capsys):
    arguments = ["--dry-run", "--only", stage, "--out", str(tmp_path)]
    status = gpu_record.main(arguments)
    content = json.loads((tmp_path / f"{stage}.json").read_text())
    assert {n: t["error"] for n, t in content["tasks"].items() if "error" in t} == {}
    assert status == 0
    assert content["tasks"]
    assert content["environment"]["torch"] == torch.__version__
    assert content["environment"]["dry run"]
    # Nothing is done twice.
    assert "…" in capsys.readouterr().out
    assert gpu_record.main(arguments) == 0
    assert "…" not in capsys.readouterr().out


def test_the_stages_are_in_the_order_of_their_value():
    assert list(STAGES) == ["agreement", "diagonal", "cblr", "resnet", "transformers", "training",
                            "audit"]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu_record.main([]) == 2
    assert "torch sees no GPU here" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu_record.main(["--dry-run"])
    assert "--out" in capsys.readouterr().err


class Killed(BaseException):
    """As if the process ended."""


def test_what_the_process_does_not_come_back_from_is_tried_twice(tmp_path):
    def killed():
        raise Killed

    tasks = {"killed": killed, "last": lambda: 1}
    for count in (1, 2):
        with pytest.raises(Killed):
            gpu_record.Stage("s", tmp_path, FACTS).run(tasks, 5, again=False)
        entry = gpu_record.Stage("s", tmp_path, FACTS).tasks["killed"]
        assert entry == {"interrupted": count, "error": "it did not end within the stage"}
    stage = gpu_record.Stage("s", tmp_path, FACTS)
    assert not stage.run(tasks, 5, again=False)
    assert stage.tasks["last"]["result"] == 1


def made_up(monkeypatch, *names):
    done = []
    stages = {n: lambda _, n=n: {f"task of {n}": lambda: done.append(n)} for n in names}
    monkeypatch.setattr(gpu_record.gpu_stages, "STAGES", stages)
    return done


def test_a_gpu_that_fails_is_left_to_another_process(tmp_path, monkeypatch, capsys):
    done = made_up(monkeypatch, "first", "second")

    def lost(device):
        raise gpu_record.Lost("the GPU failed (illegal access); run the command again")

    monkeypatch.setattr(gpu_record, "clean", lost)
    arguments = ["--dry-run", "--out", str(tmp_path)]
    assert gpu_record.main(arguments) == 3
    assert "run the command again" in capsys.readouterr().err
    assert done == ["first"]
    assert "task of first" in (tmp_path / "README.md").read_text()
    monkeypatch.undo()
    rest = made_up(monkeypatch, "first", "second")
    assert gpu_record.main(arguments) == 0
    assert rest == ["second"]


def test_a_device_that_does_not_answer_is_lost(monkeypatch):
    def fault():
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    gpu_record.clean(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", fault)
    with pytest.raises(
        gpu_record.Lost, match=r"\(CUDA error: an illegal .* encountered\); run the"
    ):
        gpu_record.clean(torch.device("cuda"))


def test_the_time_of_all_stages_has_an_end(tmp_path, monkeypatch):
    done = made_up(monkeypatch, "first", "second")
    arguments = ["--dry-run", "--out", str(tmp_path)]
    assert gpu_record.main([*arguments, "--total", "0"]) == 1
    assert done == []
    assert gpu_record.main([*arguments, "--total", "1"]) == 0
    assert done == ["first", "second"]


def test_the_page_of_the_records(tmp_path):
    stage = gpu_record.Stage("s", tmp_path, {"gpu": "X1", "torch": "2.0", "triton": None})
    stage.run({"fast": lambda: {"seconds": 0.12345, "target": 1.2, "methods": {"a": "b", "c": "b"}},
               "wrong": lambda: 1 / 0}, 5, again=False)  # fmt: skip
    gpu_record.gpu_summary.write(tmp_path, ["s", "t"])
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert "gpu X1, torch 2.0." in lines
    row = next(line for line in lines if line.startswith("| fast"))
    assert row.startswith("| fast | seconds 0.123, target 1.2, methods b | ")
    assert "| wrong | **not done**: ZeroDivisionError: division by zero | |" in lines
    assert lines[lines.index("## t") + 2] == "Nothing yet."


def test_precision_of_what_is_compared_is_put_back():
    setting = gpu_record.gpu_stages.Setting(torch.device("cuda"), True, None, Path())
    owners = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)

    def now():
        return [owner.fp32_precision for owner in owners]

    before = now()
    for allowed, want in ((True, ["ieee", "tf32"]), (False, ["ieee", "ieee"])):
        with setting.tensor_cores(allowed):
            assert now() == want
        assert now() == before


def test_a_stage_goes_on_where_it_stopped(tmp_path):
    done = []

    def slow():
        done.append("slow")
        time.sleep(30)

    def wrong():
        done.append("wrong")
        raise ValueError("no")

    tasks = {"first": lambda: done.append("first"), "wrong": wrong, "slow": slow,
             "last": lambda: done.append("last")}  # fmt: skip
    assert not gpu_record.Stage("s", tmp_path, FACTS).run(tasks, 0.3, again=False)
    assert done == ["first", "wrong", "slow"]
    assert not gpu_record.Stage("s", tmp_path, FACTS).run(tasks, 0.3, again=False)
    assert done[3:] == ["slow"]  # once may have been for want of time
    stage = gpu_record.Stage("s", tmp_path, FACTS)
    assert not stage.run(tasks, 0.3, again=False)
    assert done[4:] == ["last"]
    assert stage.tasks["wrong"]["error"] == "ValueError: no"
    assert stage.tasks["slow"]["interrupted"] == 2
    tasks["wrong"] = tasks["slow"] = lambda: 1
    assert stage.run(tasks, 5, again=True)
    # What another machine made is not this one's.
    assert gpu_record.Stage("s", tmp_path, {"torch": "another"}).tasks == {}
    assert gpu_record.Stage("s", tmp_path, FACTS).tasks["slow"]["result"] == 1
