"""The training loop, on Hugging Face accelerate.

    trainer = Trainer(model, objective, samples, ["images"], Recipe(epochs=5), folder=Path("run"))
    history = trainer.run()     # Ctrl-C saves and stops; the same call goes on where it stopped

Every step draws from a seed of its own, so that what follows a step depends on the saved state alone
and a run that was interrupted, even killed, ends with the bits of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from graphopt.errors import TrainingError, UsageError
from graphopt.training import checkpoint
from graphopt.training.augment import Augment
from graphopt.training.feed import Order, SampleSource, loader
from graphopt.training.guards import (
    deterministic,
    forget_accelerator,
    interruptible,
    maybe_no_sync,
)
from graphopt.training.hooks import Hook, Moment
from graphopt.training.layout import lay_out
from graphopt.training.logs import Events, write_csv
from graphopt.training.objective import Learner, Objective
from graphopt.training.optimizers import optimizer_for, take_values
from graphopt.training.recipe import Recipe
from graphopt.training.watch import Watch

TARGETS = "targets"  # labels of a batch; boxes among them are (images, rows, 5) and move with it
_LARGEST_OVERHEAD = 0.05  # of the time, for saving
_LOGGED_EVERY = 10  # steps between numbers in TensorBoard
_MOST_SKIPPED = 20  # losses that are not finite, one after another


@dataclass
class History:
    """What a run did.

    Attributes:
        rows: numbers by name for every epoch.
        steps: optimizer steps.
        seconds: in all attempts, without evaluation.
        skipped: samples and steps that were left out.
        sums: of the terms in the epoch that is going on, over `counted` steps.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    skipped: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0

    @property
    def terms(self) -> list[str]:
        """What the loss was the sum of."""
        names = list(self.rows[-1]) if self.rows else []
        return names[names.index("epoch") + 1 : names.index("lr")] if names else []


class Trainer:
    """Trains a module in place."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        samples: SampleSource,
        names: Sequence[str],
        recipe: Recipe,
        *,
        hooks: Sequence[Hook] = (),
        folder: Path | None = None,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        watch: Watch | None = None,
        device: str = "auto",
    ) -> None:
        """Prepares a run; nothing is read yet.

        Args:
            model: trained in place; on the CPU again afterwards.
            objective: gives the terms of the loss.
            samples: see `graphopt.data.load_samples`.
            names: which arrays of a sample the objective is given, in order: the images first; boxes
                called "targets" are augmented with them.
            recipe: the settings.
            hooks: act after the backward pass, after the step, after the epoch.
            folder: for checkpoints, metrics.csv and TensorBoard's events; a run found there goes on.
            evaluate: metrics of the model, after every epoch.
            watch: is shown the progress.
            device: "cpu", or "auto" for what accelerate finds.

        Raises:
            UsageError: too few samples for a batch.
        """
        from accelerate import Accelerator

        forget_accelerator()
        self.accelerator = Accelerator(mixed_precision=recipe.precision, cpu=device == "cpu")
        self.model, self.recipe = model, recipe
        self.hooks, self.evaluate, self.watch = list(hooks), evaluate, watch or Watch()
        self.folder = folder
        processes = self.accelerator.num_processes
        self.order = Order(
            len(samples),
            recipe.batch,
            recipe.seed,
            process=self.accelerator.process_index,
            processes=processes,
        )
        self.samples, self.names = samples, list(names)
        self.augment = Augment.parse(recipe.augment)
        self.per_epoch = max(self.order.per_epoch // recipe.accumulate, 1)
        self.steps = max(round(recipe.epochs * self.per_epoch), 1) if recipe.epochs else 0
        self.learner = Learner(model, objective)
        self.history = History()
        self.fingerprint = checkpoint.fingerprint(
            vars(recipe),
            len(samples),
            processes,
            [(n, list(p.shape)) for n, p in self.learner.named_parameters()],
            [type(hook).__name__ for hook in self.hooks],
        )
        self._interrupted = False
        self._skipped_in_a_row = 0

    def run(self) -> History:
        """Trains to the end, from where a run in the folder stopped.

        Raises:
            TrainingError: the loss is not finite, or the folder holds another run.
            KeyboardInterrupt: asked to stop; the state is saved if there is a folder.
        """
        self.learner.train()
        lay_out(self.learner)
        self._prepare()
        self._resume()
        with interruptible(self.stop), deterministic():
            try:
                self._steps()
            finally:
                self.watch.stop()
                self.events.close()
        self._finish()
        return self.history

    def stop(self) -> None:
        """Asks a run to save and end after the step that is going on."""
        self._interrupted = True

    # --- start and end --------------------------------------------------------------------------

    def _prepare(self) -> None:
        self.wrapped = self.accelerator.prepare_model(self.learner)
        optimizer = optimizer_for(self.learner, self.recipe)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.ema = None
        if self.recipe.ema:
            decay = get_ema_multi_avg_fn(self.recipe.ema)
            self.ema = AveragedModel(self.model, multi_avg_fn=decay, use_buffers=True)

    def _resume(self) -> None:
        found = checkpoint.load(self.folder, self.accelerator.device) if self.folder else None
        if found is not None:
            if found["fingerprint"] != self.fingerprint:
                raise TrainingError(
                    f"folder {self.folder} holds another run (other settings, data or network): "
                    "take another folder, or delete this one"
                )
            self._take_up(found)
        logs = self.folder if self.accelerator.is_main_process else None
        self.events = Events(logs, self.history.steps)
        self._saved_at = time.perf_counter()
        self._save_seconds = 0.0

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "step": self.history.steps,
            "fingerprint": self.fingerprint,
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "hooks": [hook.state_dict() for hook in self.hooks],
            "history": dict(vars(self.history)),
        }

    def _take_up(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        for hook, each in zip(self.hooks, state["hooks"], strict=True):
            hook.load_state_dict(each)
        self.history = History(**state["history"])

    def _finish(self) -> None:
        if self.ema is not None:
            take_values(self.model, self.ema.module)
        self.learner.cpu().eval().to(memory_format=torch.contiguous_format)
        self.accelerator.free_memory()
        forget_accelerator()

    # --- steps ----------------------------------------------------------------------------------

    def _steps(self) -> None:
        first, started = self.history.steps, time.perf_counter()
        self.watch.start(self._moment())
        batches = self._batches()
        while self.history.steps < self.steps:
            terms = self._step(batches)
            self._count(terms)
            self._tell(terms)
            if self.history.steps % self.per_epoch == 0 or self.history.steps == self.steps:
                seconds = time.perf_counter() - started
                self._end_epoch(self.history.steps - first, seconds)
                first, started = self.history.steps, time.perf_counter()
            self._maybe_save(last=self.history.steps == self.steps)

    def _step(self, batches: Iterator[tuple[Tensor, ...]]) -> dict[str, float]:
        at = self._moment()
        for group in self.optimizer.param_groups:
            group["lr"] = at.learning_rate
        self.optimizer.zero_grad()
        for hook in self.hooks:
            hook.before_step(self.model, at)
        terms = self._gradients(batches, at)
        if terms:
            if self.accelerator.scaler is not None:
                self.accelerator.unscale_gradients(self.optimizer)
            if self.recipe.clip:
                nn.utils.clip_grad_norm_(self.learner.parameters(), self.recipe.clip)
            # after clipping, which is not to take from the pressure of sparsity
            for hook in self.hooks:
                hook.after_backward(self.model, at)
            self.optimizer.step()
            for hook in self.hooks:
                hook.after_step(self.model, at)
            if self.ema is not None:
                self.ema.update_parameters(self.model)
        self.history.steps += 1
        return terms

    def _gradients(self, batches: Iterator[tuple[Tensor, ...]], at: Moment) -> dict[str, float]:
        """Sums gradients over the batches of a step; no terms when the step is skipped."""
        total: dict[str, float] = {}
        parts = self.recipe.accumulate
        for part in range(parts):
            number = at.step * parts + part
            inputs = self._augmented(next(batches), number)
            self._seed(number)  # after reading: starting to read draws numbers as well
            with maybe_no_sync(self.accelerator, self.wrapped, last=part == parts - 1):
                terms = self.wrapped(inputs, at)
                loss = torch.stack([t.float() for t in terms.values()]).sum()
                values = {k: float(v.detach()) / parts for k, v in terms.items()}
                if not math.isfinite(float(loss.detach())):
                    self._not_finite(values, at)
                    return {}
                self.accelerator.backward(loss / parts)
            for name, value in values.items():
                total[name] = total.get(name, 0.0) + value
        self._skipped_in_a_row = 0
        return total

    def _not_finite(self, values: dict[str, float], at: Moment) -> None:
        bad = ", ".join(f"{k} = {v:g}" for k, v in values.items() if not math.isfinite(v))
        self._skipped_in_a_row += 1
        if self.recipe.on_bad == "stop" or self._skipped_in_a_row > _MOST_SKIPPED:
            raise TrainingError(
                f"the loss is not finite in step {at.step} ({bad or 'the sum'}): lower lr (now "
                f"{at.learning_rate:g}), set clip=10, or skip such steps with on-bad=skip"
            )
        self.history.skipped += 1
        self.watch.note(f"step {at.step} skipped: {bad}")

    def _batches(self) -> Iterator[tuple[Tensor, ...]]:
        parts = self.recipe.accumulate
        # A step left over at the end of an epoch goes on into the next permutation.
        self.order.between(self.history.steps * parts, self.steps * parts)
        made = loader(
            self.samples,
            self.names,
            self.order,
            workers=self.recipe.workers,
            skip=self.recipe.on_bad == "skip",
        )
        for tensors, skipped in made:
            for text in skipped:
                self.history.skipped += 1
                self.watch.note(f"sample skipped: {text}")
            yield tuple(t.to(self.accelerator.device, non_blocking=True) for t in tensors)

    def _augmented(self, inputs: tuple[Tensor, ...], number: int) -> tuple[Tensor, ...]:
        process = self.accelerator.process_index
        seed = (self.recipe.seed * 1_000_003 + number) * 1_009 + process
        generator = torch.Generator().manual_seed(seed)
        made = list(inputs)
        at = self.names.index(TARGETS) if TARGETS in self.names[1:] else 0
        if at and inputs[at].dim() == 3 and inputs[at].is_floating_point():
            made[0], made[at] = self.augment(inputs[0], generator, inputs[at])
            return tuple(made)
        if at and self.augment.mosaic:
            raise UsageError(
                "augment: mosaic is for boxes; an image of one class has nothing of it"
            )
        made[0] = self.augment(inputs[0], generator)
        return tuple(made)

    def _seed(self, number: int) -> None:
        """Whatever batch `number` draws in the networks depends on nothing that was drawn before."""
        process = self.accelerator.process_index
        torch.manual_seed(((self.recipe.seed + 1) * 1_000_003 + number) * 1_009 + process)

    def _moment(self) -> Moment:
        step = self.history.steps
        rate = self.recipe.learning_rate(step, max(self.steps, 1), self.per_epoch)
        return Moment(step, max(self.steps, 1), self.per_epoch, rate)

    # --- telling and saving -----------------------------------------------------------------------

    def _count(self, terms: dict[str, float]) -> None:
        for name, value in terms.items():
            self.history.sums[name] = self.history.sums.get(name, 0.0) + value
        self.history.counted += bool(terms)

    def _tell(self, terms: dict[str, float]) -> None:
        at = self._moment()
        status = " ".join(s for hook in self.hooks if (s := hook.status()))
        self.watch.step(at, terms, status)
        if at.step % _LOGGED_EVERY == 0:
            self.events.numbers({**terms, "lr": at.learning_rate}, at.step, "step")

    def _end_epoch(self, steps: int, seconds: float) -> None:
        """Writes the row of an epoch; `steps` of it took `seconds` (others were before a stop)."""
        at = self._moment()
        means = {k: v / max(self.history.counted, 1) for k, v in self.history.sums.items()}
        self.history.sums, self.history.counted = {}, 0
        images = steps * self.recipe.batch * self.recipe.accumulate * self.accelerator.num_processes
        row = {"epoch": at.epoch, **means, "lr": at.learning_rate}
        row["images/s"] = images / max(seconds, 1e-9)
        self.history.seconds += seconds
        row |= self.learner.objective.numbers()
        for hook in self.hooks:
            row |= hook.after_epoch(self.model, at)
        if self.evaluate is not None:
            row |= self._evaluated()
        self.history.rows.append(row)
        self.events.numbers(row, at.step, "epoch")
        if self.folder and self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_csv(self.folder / "metrics.csv", self.history.rows)
        self.watch.epoch(row)

    def _evaluated(self) -> dict[str, float]:
        assert self.evaluate is not None
        judged = self.ema.module if self.ema is not None else self.model
        was_training = judged.training
        judged.eval()
        with torch.no_grad():
            found = dict(self.evaluate(judged))
        judged.train(was_training)
        return found

    def _maybe_save(self, *, last: bool) -> None:
        if self.folder is None:
            if self._interrupted:
                raise KeyboardInterrupt
            return
        waited = time.perf_counter() - self._saved_at
        if self.recipe.save_every:
            due = self.history.steps % self.recipe.save_every == 0
        else:
            due = self._save_seconds <= _LARGEST_OVERHEAD * waited
        if self.accelerator.is_main_process and (due or last or self._interrupted):
            started = time.perf_counter()
            checkpoint.save(self.folder, self._state())
            self._saved_at = time.perf_counter()
            self._save_seconds = self._saved_at - started
        if self._interrupted:
            raise KeyboardInterrupt
