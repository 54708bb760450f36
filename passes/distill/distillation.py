"""A student that learns from a teacher, as data: pairs of tensors and what compares them.

    distillation = Distillation(student, teacher, {
        ("logits", "logits"): "kl{temperature=4}",
        ("layer3", "layer3"): Term("pkd", weight=3, schedule="fade"),
    }, example=images)

    Trainer(distillation.student, distillation, samples, ["images"], recipe).run()

or in a loop of one's own:

    outputs, terms = distillation.compare(images)
    loss = criterion(outputs, labels) + sum(terms.values())

The teacher is in eval mode whatever the student is in, and gets no gradient: a teacher in training
mode would move its BatchNorm statistics and teach something else with every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphopt.errors import UsageError
from graphopt.passes.distill.losses import Given, Loss, Norm
from graphopt.passes.distill.reading import norm_after, reading
from graphopt.passes.distill.term import Pair, Term, Terms, terms_of
from graphopt.training import Moment, Objective
from graphopt.training.objective import usual

_MEASURED_EVERY = 50  # steps between measurements of gradient norms
_LARGEST_SHARE = 0.5  # of the first term's gradient, for every other term that is balanced
_START = Moment(0, 1, 1, 0.0)


class Distillation(Objective):
    """sum over pairs of weight * loss(student's tensor, teacher's), and the task's loss if given."""

    any_layout: ClassVar[bool] = True

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        terms: Terms,
        *,
        example: Tensor | tuple[Tensor, ...],
        adapters: bool = True,
        balance: bool = False,
        task: Callable[..., Tensor | Mapping[str, Tensor]] | None = None,
        guided: Callable[..., Mapping[str, Tensor]] | None = None,
        masks: Callable[[Tensor, int, int], Tensor] | None = None,
        inputs: int = 1,
    ) -> None:
        """Checks every pair on an example.

        Args:
            student: a view (pairs name tensors) or any module (pairs name submodules).
            teacher: likewise; never changed, put into eval mode in every step.
            terms: `{(student's name, teacher's name): loss}`, a loss being a text, a `Loss`, a
                `Term`, or a list of these.
            example: inputs; both networks run once on them.
            adapters: puts a 1x1 convolution behind a student's tensor that has another width than
                the teacher's where the loss needs equal ones and the term names no channels. It is trained
                with the student and left out afterwards.
            balance: scales terms down so that the gradient of each is at most half of the first
                term's (the task's, if there is one), measured every 50 steps.
            task: loss of the outputs and the targets, the tensors of a batch after its inputs; one
                number, or several by name.
            guided: likewise terms of the student's outputs, the teacher's and the targets, already
                weighted.
            masks: makes of the targets the mask (N, height, width) of losses that look at places.
            inputs: how many tensors of a batch are inputs.

        Raises:
            UsageError: a name that is not there, or a pair whose shapes the loss is not for.
        """
        super().__init__()
        self.terms = terms_of(terms)
        if not self.terms and task is None and guided is None:
            raise UsageError("a distillation needs at least one pair of tensors")
        self.names = _names(self.terms)
        self.balance, self.inputs = balance, inputs
        self.task, self.guided, self.masks = task, guided, masks
        self.student_names = list(dict.fromkeys(pair[0] for pair, _ in self.terms))
        teacher_names = list(dict.fromkeys(pair[1] for pair, _ in self.terms))
        # Outside the module tree: the student is what is trained, moved and saved.
        object.__setattr__(self, "student", reading(student, self.student_names))
        object.__setattr__(self, "teacher", reading(teacher, teacher_names))
        # What the losses that ask for it are given of the layer that reads a tensor.
        object.__setattr__(self, "norms_of", _norms(self.terms, student, teacher))
        self.adapters = nn.ModuleDict()
        count = len(self.terms) + (task is not None or guided is not None)
        self.register_buffer("gains", torch.ones(count))
        self.register_buffer("norms", torch.zeros(count))
        self._fit(example if isinstance(example, tuple) else (example,), adapters=adapters)

    student: nn.Module
    teacher: nn.Module
    norms_of: dict[Pair, tuple[nn.Module | None, nn.Module | None]]
    gains: Tensor
    norms: Tensor

    # --- running --------------------------------------------------------------------------------

    def compare(self, *inputs: Tensor, at: Moment = _START) -> tuple[Any, dict[str, Tensor]]:
        """The student's outputs, and the weighted terms by name."""
        outputs, found = self.student(*inputs)
        return outputs, self._terms(found, self._taught(inputs)[1], at)

    def forward(
        self, model: nn.Module, inputs: tuple[Tensor, ...], at: Moment
    ) -> dict[str, Tensor]:
        """The terms of a batch; `model` is `self.student`, perhaps wrapped."""
        given, targets = inputs[: self.inputs], inputs[self.inputs :]
        outputs, found = model(*given)
        said, taught = self._taught(given)
        labelled = self._labelled(usual(outputs), usual(said), targets)
        terms = self._terms(found, taught, at, targets)
        if self.balance:
            labelled, terms = self._balanced(labelled, terms, model, at)
        return {**labelled, **terms}

    def _labelled(self, outputs: Any, said: Any, targets: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """What the labels ask for."""
        found: dict[str, Tensor] = {}
        if self.task is not None:
            asked = self.task(outputs, *targets)
            found |= {"task": asked} if isinstance(asked, Tensor) else asked
        if self.guided is not None:
            found |= self.guided(outputs, said, *targets)
        return found

    def numbers(self) -> dict[str, float]:
        """The gradient norms measured last, by term."""
        if not self.balance:
            return {}
        labels = self.task is not None or self.guided is not None
        names = ["task", *self.names] if labels else self.names
        return {f"|grad {n}|": float(v) for n, v in zip(names, self.norms, strict=True)}

    def _taught(self, inputs: tuple[Tensor, ...]) -> tuple[Any, dict[str, Tensor]]:
        """The teacher's outputs, and its tensors by name."""
        if next(self.teacher.parameters(), inputs[0]).device != inputs[0].device:
            self.teacher.to(inputs[0].device)
        self.teacher.eval()
        with torch.no_grad():
            found: tuple[Any, dict[str, Tensor]] = self.teacher(*inputs)
        return found

    def beside(self) -> Sequence[nn.Module]:
        """The teacher."""
        return (self.teacher,)

    def _terms(
        self,
        found: dict[str, Tensor],
        taught: dict[str, Tensor],
        at: Moment,
        targets: tuple[Tensor, ...] = (),
    ) -> dict[str, Tensor]:
        return {
            name: self._term(name, pair, term, found, taught, at, targets)
            for name, (pair, term) in zip(self.names, self.terms, strict=True)
        }

    def _term(
        self,
        name: str,
        pair: Pair,
        term: Term,
        found: dict[str, Tensor],
        taught: dict[str, Tensor],
        at: Moment,
        targets: tuple[Tensor, ...] = (),
    ) -> Tensor:
        mine, theirs = found[pair[0]], taught[pair[1]]
        if name_of(name) in self.adapters:
            mine = self.adapters[name_of(name)](mine)
        factor: Any = term.weight * term.factor(at.done)
        if term.normalized:
            factor = factor / theirs.float().square().mean().clamp_min(1e-12)
        return factor * _loss(term)(mine, theirs, self._given(pair, term, mine, targets))

    def _given(
        self, pair: Pair, term: Term, mine: Tensor, targets: tuple[Tensor, ...]
    ) -> Given | None:
        """What the loss may take besides the tensors."""
        mask = None
        if _wants_mask(term) and self.masks and targets:
            mask = self.masks(targets[0], *mine.shape[2:])
        norms = [None if m is None else Norm.of(m) for m in self.norms_of.get(pair, (None, None))]
        given = Given(
            channels=term.channels, mask=mask, student_norm=norms[0], teacher_norm=norms[1]
        )
        return given if given.names() else None

    def _balanced(
        self,
        labelled: dict[str, Tensor],
        terms: dict[str, Tensor],
        model: nn.Module,
        at: Moment,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms, none with more than its share of the first one's gradient (the labels', if any)."""
        asked = [torch.stack(list(labelled.values())).sum()] if labelled else []
        values = [*asked, *terms.values()]
        if at.step % _MEASURED_EVERY == 0 and torch.is_grad_enabled():
            trained = [p for p in model.parameters() if p.requires_grad]
            norms = torch.stack([_gradient_norm(value, trained) for value in values])
            self.norms.copy_(norms)
            most = _LARGEST_SHARE * norms[0] / norms.clamp_min(1e-12)
            self.gains.copy_(most.clamp(max=1.0))
            self.gains[0] = 1.0
        gains = self.gains[len(asked) :]
        return labelled, {
            name: gain * value for (name, value), gain in zip(terms.items(), gains, strict=True)
        }

    # --- checking -------------------------------------------------------------------------------

    def _fit(self, example: tuple[Tensor, ...], *, adapters: bool) -> None:
        """Runs both networks once, makes adapters where widths differ, and tries every loss."""
        was_training = self.student.training
        self.student.eval()
        with torch.no_grad():
            _, found = self.student(*example)
            _, taught = self._taught(example)
        for name, (pair, term) in zip(self.names, self.terms, strict=True):
            mine, theirs = found[pair[0]], taught[pair[1]]
            if term.channels is not None:
                theirs = term.channels.of(theirs)
            if adapters and not _loss(term).adapts and _widths_differ(mine, theirs):
                self.adapters[name_of(name)] = _adapter(mine, theirs)
            if "mask" in _loss(term).needs and self.masks:
                continue  # tried with the first labels
            try:
                self._term(name, pair, term, found, taught, _START)
            except UsageError as error:
                raise UsageError(f"pair {pair}: {error}") from error
        self.student.train(was_training)


def name_of(term: str) -> str:
    """The name of a term's adapter: modules take no dots."""
    return term.replace(".", "_")


def _names(terms: list[tuple[Pair, Term]]) -> list[str]:
    """What a term is called in logs: the loss and the student's tensor, made unique."""
    names: list[str] = []
    for (student, _), term in terms:
        base = f"{_loss(term).name} {student}".strip()
        name, count = base, 1
        while name in names:
            count += 1
            name = f"{base} {count}"
        names.append(name)
    return names


def _loss(term: Term) -> Loss:
    assert isinstance(term.loss, Loss)  # Term has read the text
    return term.loss


def _wants_mask(term: Term) -> bool:
    return "mask" in _loss(term).needs or (term.masked and "mask" in _loss(term).takes)


def _norms(
    terms: list[tuple[Pair, Term]], student: nn.Module, teacher: nn.Module
) -> dict[Pair, tuple[nn.Module | None, nn.Module | None]]:
    """For losses that look through the next BatchNormalization, where both networks have one: those."""
    found = {}
    for pair, term in terms:
        if "student_norm" in _loss(term).takes:
            both = norm_after(student, pair[0]), norm_after(teacher, pair[1])
            found[pair] = (None, None) if None in both else both
    return found


def _widths_differ(mine: Tensor, theirs: Tensor) -> bool:
    return mine.dim() == theirs.dim() > 2 and mine.shape[1] != theirs.shape[1]


def _adapter(mine: Tensor, theirs: Tensor) -> nn.Module:
    kinds: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
        3: nn.Conv1d,
        4: nn.Conv2d,
        5: nn.Conv3d,
    }
    return kinds[mine.dim()](mine.shape[1], theirs.shape[1], 1)


def _gradient_norm(value: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    squares = [g.float().square().sum() for g in found if g is not None]
    return torch.stack(squares).sum().sqrt() if squares else value.new_zeros(())
