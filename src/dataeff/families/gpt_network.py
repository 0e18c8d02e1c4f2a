"""GPT-2 as a module: the library's model and weights, whose body asks the device for nothing.

The library's body looks at the values of its position ids for several texts packed into a row, in every forward pass:
on a graphics card the host would wait there for all that it has asked for before. The rows here are one text's
positions 0, 1, 2, ... always. The class of the whole model stays the library's, and so does a saved folder.

Shapes: B rows, S positions, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions


class Body(transformers.GPT2Model):  # type: ignore[misc]
    """The library's, with a way of its own for what training asks: whole rows, causal attention and nothing else."""

    def forward(self, input_ids: Tensor | None = None, **others: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        """Of `input_ids` [B, S]. `others`: the library's arguments; where one is given, the library's way is taken, and
        also where attention is not causal by itself without a mask.
        """
        alone = not any(value is not None and value is not False for value in others.values())
        if input_ids is None or not alone or self.config._attn_implementation != "sdpa":
            return super().forward(input_ids, **others)
        positions_1S = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        hidden_BSD = self.drop(self.wte(input_ids) + self.wpe(positions_1S))
        for layer in self.h:
            hidden_BSD = layer(hidden_BSD, None, None)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.ln_f(hidden_BSD))


def new_network(config: transformers.GPT2Config) -> transformers.GPT2LMHeadModel:
    """A freshly initialised model with this body."""
    network = transformers.GPT2LMHeadModel(config)
    # The module that is there, with its weights: a new one would be initialised a second time.
    network.transformer.__class__ = Body
    return network
