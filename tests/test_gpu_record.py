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
