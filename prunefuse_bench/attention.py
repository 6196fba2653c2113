"""Which layers make the heads of attention, and what of them must be mended when their heads were narrowed.

The outputs of such a layer are heads side by side; every head must lose as many channels as the others, at the same
places. Most libraries also store the width of a head, which pruning layers does not change.
"""

from __future__ import annotations

from torch import nn

__all__ = ["attention_heads", "mend_attention"]

HEADED = frozenset(
    {"qkv", "qkv_proj", "to_qkv", "query_key_value"}
    | {"q", "k", "v", "to_q", "to_k", "to_v", "q_proj", "k_proj", "v_proj", "query", "key", "value"}
)
"""What libraries call the layers whose outputs are heads, in a module that has ``num_heads``."""


def attention_heads(model: nn.Module) -> dict[nn.Module, int]:
    """How many heads the outputs of a layer are, for each layer that makes them.

    Found are :class:`torch.nn.MultiheadAttention`, and linear layers with a usual name in a module with ``num_heads``.
    """
    heads: dict[nn.Module, int] = {}
    for module in model.modules():
        count = getattr(module, "num_heads", None)
        if not isinstance(count, int):
            continue
        if isinstance(module, nn.MultiheadAttention):
            heads[module] = count
        for name, layer in module.named_children():
            if name in HEADED and isinstance(layer, nn.Linear) and layer.out_features % count == 0:
                heads[layer] = count
    return heads


def mend_attention(model: nn.Module) -> None:
    """Correct what timm's attention and torchvision's vision transformer store of their widths.

    That is the width of a head and of all of them, the scale of the scores (``head_dim ** -0.5``), and the width of the
    tokens.
    """
    for module in model.modules():
        stored, count, layer = (getattr(module, name, None) for name in ("head_dim", "num_heads", "qkv"))
        if isinstance(stored, int) and isinstance(count, int) and isinstance(layer, nn.Linear):
            head_dim = layer.out_features // (3 * count)
            _replace(module, "attn_dim", stored * count, head_dim * count)
            _replace(module, "scale", stored**-0.5, head_dim**-0.5)
            _replace(module, "head_dim", stored, head_dim)
        patches = getattr(module, "conv_proj", None)
        if isinstance(patches, nn.Conv2d) and "hidden_dim" in module.__dict__:
            module.__dict__["hidden_dim"] = patches.out_channels


def _replace(module: nn.Module, name: str, old: float, new: float) -> None:
    """Unless the module keeps something else under that name."""
    if module.__dict__.get(name) == old:
        module.__dict__[name] = new
