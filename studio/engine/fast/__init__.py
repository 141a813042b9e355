"""The fast path: the same computation as TRL's trainer with less work, for supported models.

TRL's SFTTrainer stays the trainer (schedule, accumulation, clipping, evaluation, resume, events). Only the forward and
backward pass is replaced: rows without padding, attention per row, LoRA as one function with its own backward, no
gradients for frozen weights, and the head and its gradient on trained tokens only.
"""

from studio.engine.fast.plan import Choice, choose
from studio.engine.fast.trainer import take_over

__all__ = ["Choice", "choose", "take_over"]
