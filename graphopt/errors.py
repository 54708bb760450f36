"""The one error tree. Each class carries the exit code the command line ends with.

GraphoptError                 1
├── UsageError                2   an option, selector or pipeline text that cannot be meant
├── ModelError                1   the input cannot be read or used as a model
│   ├── LoadError                 missing, truncated, not ONNX, unsafe paths, ...
│   └── ExportError               a torch module that could not be exported
├── GraphError                1   the graph breaks an invariant of the IR
├── UnsupportedError          1   a node that has no differentiable form
├── RunError                  1   no executor can run the graph, or a program made from it failed
├── ToolchainError            1   a compiler or linker refused its input, or made what would not load
├── SaveError                 1   the result could not be written; nothing half-written is left
├── TrainingError             1   a run that cannot go on: a loss that is not finite, another run's folder
├── PlanError                 1   a pruning plan that does not fit the model, or is none
├── PassError                 1   a pass failed or broke its contract (only raised with strict)
├── VerificationError         3   the result does not compute what the input computes; nothing written
└── BudgetError               4   a size, cost or accuracy limit was not met

A message says what is wrong, where, and what to do about it, in one line.
"""

from __future__ import annotations


class GraphoptError(Exception):
    """Base of everything graphopt raises on purpose."""

    exit_code = 1


class UsageError(GraphoptError):
    """An option, selector or pipeline text that cannot be meant."""

    exit_code = 2


class ModelError(GraphoptError):
    """The input cannot be used as a model."""


class LoadError(ModelError):
    """A model file that cannot be read."""


class ExportError(ModelError):
    """A torch module that cannot be exported to ONNX."""


class GraphError(GraphoptError):
    """A graph that breaks an invariant of the IR."""


class UnsupportedError(GraphoptError):
    """A graph, or a module, that has no differentiable view."""


class RunError(GraphoptError):
    """A graph that neither ONNX Runtime nor onnx.reference can run, or a program that failed."""


class ToolchainError(GraphoptError):
    """A C compiler or linker that refused its input, or made what a board would not load."""


class SaveError(GraphoptError):
    """A result that could not be written."""


class TrainingError(GraphoptError):
    """A training run that cannot go on."""


class PlanError(GraphoptError):
    """A pruning plan that does not fit the model it is applied to, or a file that is none."""


class PassError(GraphoptError):
    """A pass that failed or broke its contract."""


class VerificationError(GraphoptError):
    """A result that does not compute what the input computes."""

    exit_code = 3


class BudgetError(GraphoptError):
    """A limit asked for that was not met."""

    exit_code = 4
