"""The fast path: what TRL's trainer computes, with less work, for the models that it knows.

TRL's SFTTrainer stays the trainer (schedule, accumulation, clipping, evaluation, resume, events). Here only what
happens inside a forward and backward pass is replaced: rows without padding, attention row by row, LoRA as one
function with its own backward, nothing computed for frozen weights, the head and its gradient on trained tokens only.
"""

from studio.engine.fast.plan import Choice, choose
from studio.engine.fast.trainer import take_over

__all__ = ["Choice", "choose", "take_over"]
