"""The loop: what it learns, that it repeats itself, and that nothing is lost when it is stopped."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training.running import Blobs, Classify, Slow, network, train

from graphopt.errors import LoadError, TrainingError, UsageError
from graphopt.training import Hook, Moment, Objective, Recipe, Task, Terms, Trainer, Watch

ROOT = Path(__file__).resolve().parents[1]


def bits(model: nn.Module) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in model.state_dict().items() if "num_batches" not in k}


def test_learns() -> None:
    model, history = train()
    assert history.rows[0]["class"] > history.rows[-1]["class"]
    images, labels = torch.from_numpy(Blobs().images), torch.from_numpy(Blobs().labels)
    assert (model(images).argmax(1) == labels).float().mean() > 0.9
    assert not model.training
    assert history.steps == 4 * 6
    assert {"epoch", "class", "size", "lr", "images/s"} <= set(history.rows[0])


def test_repeats_itself_bit_for_bit() -> None:
    one, again, other = train()[0], train()[0], train(seed=4)[0]
    assert bits(one) == bits(again)
    assert bits(one) != bits(other)


def test_workers_change_nothing() -> None:
    assert bits(train(workers=2)[0]) == bits(train(workers=0)[0])


def test_accumulated_batches_are_one_batch() -> None:
    # without dropout and batch statistics the gradient of two halves is the gradient of the whole
    class Plain(Objective):
        def forward(self, model: nn.Module, inputs: tuple[Tensor, ...], at: Moment) -> Terms:
            return {"class": nn.functional.cross_entropy(model(inputs[0].flatten(1)), inputs[1])}

    found = []
    for batch, accumulate in ((16, 1), (8, 2)):
        torch.manual_seed(0)
        model = nn.Linear(192, 2)
        recipe = Recipe(epochs=1, batch=batch, accumulate=accumulate, workers=0, augment="none")
        Trainer(model, Plain(), Blobs(), ["x", "label"], recipe, device="cpu").run()
        found.append(model.weight.detach().clone())
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_resumed_is_as_if_nothing_had_happened(
    how: signal.Signals, tmp_path: Path
) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "training.running", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    lines = iter(running.stdout)
    assert "step 7\n" in lines
    running.send_signal(how)
    rest = running.stdout.read()
    code = running.wait()
    assert code == (-9 if how is signal.SIGKILL else 130)
    assert ("interrupted" in rest) == (how is not signal.SIGKILL)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert 7 <= saved["step"] <= 9  # nothing lost but the step that was going on
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, history = train(tmp_path, hooks=(Slow(),), save_every=1)
        whole, undisturbed = train(hooks=(Slow(),), save_every=1)
    finally:
        torch.set_num_threads(threads)
    assert bits(model) == bits(whole)
    losses = [[row["class"] for row in h.rows] for h in (history, undisturbed)]
    assert losses[0] == losses[1]
    assert not list(tmp_path.glob("*.part"))


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    class See(Hook):
        def after_step(self, model: nn.Module, at: Moment) -> None:
            seen.append(at.step)

    seen: list[int] = []
    first, _ = train(tmp_path, hooks=(See(),))
    seen.clear()
    again, history = train(tmp_path, hooks=(See(),))
    assert bits(first) == bits(again)
    assert not seen
    assert len(history.rows) == 4


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(TrainingError, match="holds another run"):
        train(tmp_path, lr=0.2)


def test_a_damaged_or_poisoned_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK nonsense")
    with pytest.raises(LoadError, match=r"checkpoint.pt cannot be read"):
        train(tmp_path)

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"step": 1, "evil": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(LoadError, match=r"cannot be read"):
        train(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_what_is_written(tmp_path: Path) -> None:
    _, history = train(tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["class"]) for r in rows] == [r["class"] for r in history.rows]
    assert list(tmp_path.glob("events.out.tfevents*"))


class Break(Objective):
    """Not finite from some step on, or in that step alone."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self.first, self.last, self.inner = first, last, Classify()

    def forward(self, model: nn.Module, inputs: tuple[Tensor, ...], at: Moment) -> Terms:
        terms = self.inner(model, inputs, at)
        if self.first <= at.step <= self.last:
            terms["class"] = terms["class"] * float("nan")
        return terms


@pytest.mark.parametrize(("on_bad", "last"), [("stop", 5), ("skip", 5), ("skip", 100)])
def test_a_loss_that_is_not_finite(on_bad: str, last: int) -> None:
    recipe = Recipe(epochs=6, batch=8, workers=0, on_bad=on_bad)
    trainer = Trainer(network(), Break(5, last), Blobs(), ["x", "label"], recipe, device="cpu")
    if on_bad == "skip" and last == 5:
        history = trainer.run()
        assert history.skipped == 1
        assert np.isfinite(history.rows[-1]["class"])
        return
    with pytest.raises(TrainingError, match=r"not finite in step \d+ \(class = nan\): lower lr"):
        trainer.run()


class Bad(Blobs):
    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 11:
            raise UsageError("image 11 is damaged")
        return super().__getitem__(index)


def test_samples_that_cannot_be_read() -> None:
    notes: list[str] = []

    class Listen(Watch):
        def note(self, text: str) -> None:
            notes.append(text)

    recipe = Recipe(epochs=1, batch=8, workers=0, on_bad="skip")
    history = Trainer(
        network(), Classify(), Bad(), ["x", "label"], recipe, device="cpu", watch=Listen()
    ).run()
    assert history.skipped == 1
    assert notes == ["sample skipped: image 11 is damaged"]
    strict = Recipe(epochs=1, batch=8, workers=0)
    with pytest.raises(UsageError, match="image 11 is damaged"):
        Trainer(network(), Classify(), Bad(), ["x", "label"], strict, device="cpu").run()


def test_too_few_samples() -> None:
    with pytest.raises(UsageError, match="48 samples do not fill a batch of 64"):
        train(batch=64)


def test_hooks_see_gradients_before_the_step_and_keep_their_state(tmp_path: Path) -> None:
    class Count(Hook):
        seen = 0

        def after_backward(self, model: nn.Module, at: Moment) -> None:
            self.seen += all(p.grad is not None for p in model.parameters())

        def after_epoch(self, model: nn.Module, at: Moment) -> dict[str, float]:
            return {"seen": float(self.seen)}

        def state_dict(self) -> dict[str, Any]:
            return {"seen": self.seen}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.seen = state["seen"]

    _, history = train(tmp_path, hooks=(Count(),))
    assert [row["seen"] for row in history.rows] == [6, 12, 18, 24]
    count = Count()
    train(tmp_path, hooks=(count,))
    assert count.seen == 24
    with pytest.raises(TrainingError, match="holds another run"):
        train(tmp_path)


def test_a_loss_of_the_users_own() -> None:
    model = network()
    recipe = Recipe(epochs=2, batch=8, lr=0.1, workers=0)
    objective = Task(nn.functional.cross_entropy)
    history = Trainer(model, objective, Blobs(), ["x", "label"], recipe, device="cpu").run()
    assert history.rows[1]["task"] < history.rows[0]["task"]


def test_mixed_precision() -> None:
    model, history = train(precision="bf16")
    assert history.rows[-1]["class"] < history.rows[0]["class"]
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_evaluation_is_in_the_rows_and_sees_the_average_of_the_weights() -> None:
    model, seen = network(), []

    def evaluate(judged: nn.Module) -> dict[str, float]:
        seen.append((judged is model, judged.training))
        return {"top1": 50.0}

    recipe = Recipe(epochs=2, batch=8, workers=0, ema=0.9)
    history = Trainer(
        model, Classify(), Blobs(), ["x", "label"], recipe, device="cpu", evaluate=evaluate
    ).run()
    assert seen == [(False, False)] * 2
    assert [row["top1"] for row in history.rows] == [50.0, 50.0]
