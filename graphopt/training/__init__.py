"""Training: the loop, its recipe, its objective, and what can take part in it.

Everything here imports torch; accelerate is loaded when a run starts.
"""

from graphopt.training.augment import Augment
from graphopt.training.hooks import Hook, Moment
from graphopt.training.loop import History, Trainer
from graphopt.training.objective import Learner, Objective, Task, Terms
from graphopt.training.recipe import Recipe
from graphopt.training.watch import Terminal, Watch

__all__ = [
    "Augment",
    "History",
    "Hook",
    "Learner",
    "Moment",
    "Objective",
    "Recipe",
    "Task",
    "Terminal",
    "Terms",
    "Trainer",
    "Watch",
]
