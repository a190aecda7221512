"""A card that is none: tensors that say they lie elsewhere, held and computed on the processor.

    with Card():
        model.to(CARD)
        train(model, ...)

Where there is no card, this shows that everything a step needs was brought to it: as on a card, an
operation that is given tensors of two devices fails, as does a draw by the processor's dice, and
nothing leaves it but by `.cpu()`. It says nothing of how fast a card is, of how its sums are
rounded, or of autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

CARD = torch.device("meta")
_ATEN = torch.ops.aten
_MADE_OF_OTHERS = torch._C.DispatchKey.CompositeImplicitAutograd
# What may be given tensors of two devices: copies; and, told by the processor, places on the card.
_COPIES = {_ATEN.copy_.default, _ATEN._to_copy.default}
_BY_PLACE = {_ATEN.index.Tensor, _ATEN.index_put.default}


class OnCard(Tensor):
    """A tensor on the card."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCard:
        """Args: held: what it is, on the processor."""
        told: dict[str, Any] = {"dtype": held.dtype, "device": CARD, "layout": held.layout}
        if held.layout is torch.strided:
            told |= {"strides": held.stride(), "storage_offset": held.storage_offset()}
        with torch.inference_mode(mode=False):  # a view of a weight is no inference tensor
            made: OnCard = Tensor._make_wrapper_subclass(cls, held.shape, **told)
        made.held = held
        return made

    def tolist(self) -> Any:
        """Its numbers; torch itself has none of a subclass."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(
        cls,
        operation: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """What an operation gives whose arguments are on the card."""
        return _computed(operation, args, kwargs or {})


class Card(TorchDispatchMode):
    """While it is on, tensors can be made on the card and brought to it."""

    def __torch_dispatch__(
        self,
        operation: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """What any operation gives."""
        if operation.has_kernel_for_dispatch_key(_MADE_OF_OTHERS):
            with self:  # under inference mode nobody has taken it apart before
                return operation.decompose(*args, **kwargs or {})
        return _computed(operation, args, kwargs or {})


def _computed(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given, places = _tensors((args, kwargs)), []
    if operation in _BY_PLACE:
        given, places = _tensors((args[0], args[2:], kwargs)), _tensors(args[1])
    if any(each.device == CARD for each in (*given, *places) if not isinstance(each, OnCard)):
        raise RuntimeError(f"{operation}: made on the card behind this one's back; use .to()")
    there = [each for each in given if isinstance(each, OnCard)]
    # As on a card, a single number may be the processor's.
    here = [each for each in given if not isinstance(each, OnCard) and each.dim()]
    sought_there = [each for each in places if isinstance(each, OnCard)]
    if here and (there or sought_there) and operation not in _COPIES:
        raise RuntimeError(
            f"{operation}: tensors on two devices, of the shapes "
            f"{[tuple(each.shape) for each in there]} and {[tuple(each.shape) for each in here]}"
        )
    device = kwargs.get("device")
    on_card = isinstance(given[0], OnCard) if given and device is None else device == CARD
    if on_card and kwargs.get("generator") is not None:
        raise RuntimeError(f"{operation}: drawn on the card by the processor's dice")
    held_args, held_kwargs = tree_map_only(OnCard, lambda each: each.held, (args, kwargs))
    if device is not None:
        held_kwargs |= {"device": "cpu"}
    if operation is _ATEN._to_copy.default:  # also where the processor has nothing to copy
        held_args = (held_args[0].clone(), *held_args[1:])
    found = operation(*held_args, **held_kwargs)
    if not on_card:
        return found
    on_it = tree_map_only(Tensor, OnCard, found)
    return return_and_correct_aliasing(operation, args, kwargs, on_it)


def _tensors(tree: Any) -> list[Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, Tensor)]
