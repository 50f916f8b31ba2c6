"""What llama.cpp remembers of each conversation, and which conversations have one of the context's few sequences.

A state with a sequence (llama.cpp's term; its server says slot) lies in the context's memory: cells of the KV cache, or
recurrent state. When there are more states than sequences, idle ones are swapped out as bytes and swapped in when they
go on. A fork is copied when it is computed and not before, since the cells of what was read stay as they are while more
is read ("copy on write"); what is released meanwhile leaves its cells to its fork. Knows no text and no sampling.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge import BackendError
from chatbridge_llama_cpp.native import lib

Bytes = NDArray[np.uint8]

_MAGIC = b"chatbridge-llama-seq-2\n"
_DIGEST = 16
_SEQUENCE_BYTES = 64
"""Bytes that a state with a sequence counts for: its cells were allocated with the context, whoever has them."""
_UNKNOWN = -1


class LlamaState:
    """A `ModelState`.

    `ids`: the tokens that it has consumed; `adapter`: the one that read them, empty for the model as it is.
    `seq_id`: its sequence in the context, or None; then `swapped_out` holds what the sequence had after its first
    `swapped_length` tokens (-1 where that isn't known), or `source` is the state in whose sequence all that it has
    consumed comes first. `forks`: those of which it is the source. `draft_state`: what the draft model has read of the
    same conversation.
    """

    __slots__ = (
        "adapter",
        "draft_state",
        "forks",
        "ids",
        "seq_id",
        "sequences",
        "source",
        "swapped_length",
        "swapped_out",
    )

    def __init__(self, sequences: Sequences, adapter: str = "", ids: Iterable[int] = ()) -> None:
        self.sequences = sequences
        self.adapter = adapter
        self.ids = array("i", ids)
        self.seq_id: int | None = None
        self.swapped_out: Bytes | None = None
        self.swapped_length = 0
        self.source: LlamaState | None = None
        self.forks: list[LlamaState] = []
        self.draft_state: LlamaState | None = None

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        draft = 0 if self.draft_state is None else self.draft_state.nbytes
        return _SEQUENCE_BYTES + (0 if self.swapped_out is None else self.swapped_out.nbytes) + draft

    def fork(self) -> LlamaState:
        return self.sequences.fork(self)

    def trim(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"a state of {self.length} tokens can't be trimmed to {length}")
        if self.seq_id is not None and length < self.length:
            self.sequences.trim(self, length)
        if not length:
            self.detach()
        del self.ids[length:]

    def save(self) -> bytes:
        body = b"".join((self.length.to_bytes(4, "little"), self.ids.tobytes(), self.data().tobytes()))
        return b"".join((_MAGIC, self.sequences.digest(body, self.adapter), body))

    def release(self) -> None:
        self.sequences.free(self)
        self.swapped_out = None
        del self.ids[:]
        self.swapped_length = 0
        if self.draft_state is not None:
            self.draft_state.release()

    def detach(self) -> None:
        """Be no fork of another state any more."""
        if self.source is not None:
            self.source.forks.remove(self)
            self.source = None

    def swap_out(self, data: Bytes, length: int) -> None:
        """Hold `data`, what a sequence had after `length` tokens, of which these are the first."""
        self.detach()
        self.swapped_out, self.swapped_length = data, length

    def data(self) -> Bytes:
        """The bytes of its sequence, as they are now or as they were when it was swapped out; more may come after."""
        holder = self if self.source is None else self.source
        if holder.seq_id is not None:
            return self.sequences.read(holder.seq_id)
        return np.empty(0, np.uint8) if self.swapped_out is None else self.swapped_out


@dataclass(frozen=True, slots=True)
class Layout:
    """How a context keeps its sequences.

    `count`: how many. `cell_bytes`, `fixed_bytes`: what one token and one sequence take. `pass_bytes`: what reading
    all weights once takes. `adjacent`: only sequences whose ids follow one another are computed together. `cheap_copy`:
    copying a sequence within the context costs nothing (cells are counted, or copied when they are written).
    `append_only`: what a sequence holds of its first tokens stays as it is while more are read.
    """

    count: int
    cell_bytes: int
    fixed_bytes: int
    pass_bytes: int
    adjacent: bool
    cheap_copy: bool
    append_only: bool


class Sequences:
    """The sequences of one context: 0 to `layout.count` - 1, each of which one state has, or none.

    A state gets a sequence only when it is computed (`assign`), and keeps it until it is released or another state
    needs it. So an idle conversation costs nothing to go on with as long as there is room, and the least recently used
    one is swapped out when there isn't.
    """

    def __init__(
        self, context: Any, layout: Layout, fingerprint: str, limit: int, adapter_fingerprints: Mapping[str, str]
    ) -> None:
        self.layout = layout
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._key = fingerprint.encode()[:64]
        self._adapter_fingerprints = adapter_fingerprints
        self._limit = limit
        self._resident: dict[int, LlamaState] = {}  # by sequence, least recently used first
        self._gap_bytes = 0  # that gaps have cost since the last compaction
        self.moves = 0

    def new(self, saved: bytes | None, adapter: str = "") -> LlamaState:
        """An empty state, or the saved one. Raises BackendError where that is damaged or another model's."""
        if saved is None:
            return LlamaState(self, adapter)
        rest = memoryview(saved)[len(_MAGIC) :]
        digest, body = bytes(rest[:_DIGEST]), rest[_DIGEST:]
        if not saved.startswith(_MAGIC) or len(body) < 4 or self.digest(body, adapter) != digest:
            raise BackendError(
                "a saved state is damaged or belongs to another model: leave it out, and the prompt is read again"
            )
        length, ids = int.from_bytes(body[:4], "little"), array("i")
        if length > self._limit:
            raise BackendError(
                f"a saved state has {length} tokens, more than context_length: {self._limit}; raise it, or leave the "
                f"state out"
            )
        ids.frombytes(body[4 : 4 + length * ids.itemsize])
        state = LlamaState(self, adapter, ids)
        # It may have been trimmed after it was swapped out and before it was saved.
        state.swapped_out = np.frombuffer(body[4 + length * ids.itemsize :], np.uint8)
        state.swapped_length = _UNKNOWN
        return state

    def assign(self, states: Collection[LlamaState]) -> None:
        """Give each of `states` a sequence, side by side if that is worth it; others may have to be swapped out."""
        for state in states:
            if state.seq_id is None:
                self._swap_in(state, self._cheapest(state, states), states)
            else:
                self._resident[state.seq_id] = self._resident.pop(state.seq_id)
        if self.layout.adjacent:
            self._compact(states)

    def evict(self, keep: Collection[LlamaState]) -> bool:
        """Swap out the least recently used state that is not in `keep`; False where there is none."""
        for seq_id, idle in self._resident.items():
            if idle not in keep:
                self._swap_out(seq_id)
                return True
        return False

    def fork(self, state: LlamaState) -> LlamaState:
        """Another state that has consumed the same tokens. It gets a sequence at once only where that is free."""
        copy = LlamaState(self, state.adapter, state.ids)
        copy.draft_state = None if state.draft_state is None else state.draft_state.fork()
        unused = self._unused()
        if state.seq_id is not None and self.layout.cheap_copy and unused:
            lib.llama_memory_seq_cp(self._memory, state.seq_id, unused[0], -1, -1)
            copy.seq_id = unused[0]
            self._resident[unused[0]] = copy
        elif not state.length:
            pass
        elif self.layout.append_only and (state.seq_id is not None or state.source is not None):
            copy.source = state.source or state
            copy.source.forks.append(copy)
        elif state.seq_id is not None:
            copy.swapped_out, copy.swapped_length = state.data(), state.length
        else:
            copy.swapped_out, copy.swapped_length = state.swapped_out, state.swapped_length
        return copy

    def trim(self, state: LlamaState, length: int) -> None:
        """Forget all but the first `length` tokens of a state with a sequence.

        Raises BackendError where its memory can't.
        """
        assert state.seq_id is not None, "a state that has no sequence"
        self._copy_out(state, [fork for fork in state.forks if fork.length > length])
        if not lib.llama_memory_seq_rm(self._memory, state.seq_id, length, -1):
            raise BackendError("this model's memory can't forget its last tokens")

    def free(self, state: LlamaState) -> None:
        """Take the state's sequence from it, if it has one; a fork of it inherits it, or all that is in it goes."""
        state.detach()
        if state.seq_id is None:
            return
        if state.forks:
            self._hand_over(state, max(state.forks, key=lambda fork: fork.length))
        else:
            lib.llama_memory_seq_rm(self._memory, state.seq_id, -1, -1)
            del self._resident[state.seq_id]
            state.seq_id = None

    def read(self, seq_id: int) -> Bytes:
        """All that a sequence holds. Raises BackendError where llama.cpp can't tell."""
        size = lib.llama_state_seq_get_size(self._context, seq_id)
        buffer = np.empty(size, np.uint8)
        if lib.llama_state_seq_get_data(self._context, _pointer(buffer), size, seq_id) != size:
            raise BackendError("llama.cpp could not save a conversation's state")
        return buffer

    def digest(self, body: bytes | memoryview, adapter: str) -> bytes:
        """A hash of `body`, of the model and of the adapter: another model's state has another one."""
        salt = self._adapter_fingerprints.get(adapter, "").encode()[: blake2b.SALT_SIZE]
        return blake2b(body, digest_size=_DIGEST, key=self._key, salt=salt).digest()

    def _unused(self) -> list[int]:
        return [seq_id for seq_id in range(self.layout.count) if seq_id not in self._resident]

    def _copy_out(self, state: LlamaState, forks: Sequence[LlamaState]) -> None:
        """Give these forks of a state bytes of their own, before its sequence changes."""
        if forks:
            data = state.data()
            for fork in forks:
                fork.swap_out(data, state.length)

    def _hand_over(self, state: LlamaState, heir: LlamaState) -> None:
        """Give the sequence of a state to a fork of it, and to it all other forks that are no longer."""
        assert state.seq_id is not None, "a state that has no sequence"
        self._copy_out(state, [fork for fork in state.forks if fork.length > heir.length])
        heir.detach()
        for fork in state.forks:
            fork.source = heir
        heir.forks += state.forks
        state.forks.clear()
        heir.seq_id, state.seq_id = state.seq_id, None
        self._resident[heir.seq_id] = heir
        if heir.length < state.length:
            lib.llama_memory_seq_rm(self._memory, heir.seq_id, heir.length, -1)

    def _cheapest(self, state: LlamaState, states: Collection[LlamaState]) -> int:
        """The sequence that costs least for `state`, one of `states`: nobody to swap out, and next to the others."""
        taken = {state.seq_id for state in states if state.seq_id is not None}
        order = {seq_id: age for age, seq_id in enumerate(self._resident)}

        def cost(seq_id: int) -> tuple[int, int]:
            gaps = _gaps([*taken, seq_id]) if self.layout.adjacent else 0
            moved = {self._resident.get(seq_id), state.source} - {None}
            copied = sum(self._bytes_of(one) for one in moved if one is not None)
            return gaps * self.layout.pass_bytes + copied, order.get(seq_id, -1)

        candidates = [seq_id for seq_id in range(self.layout.count) if seq_id not in taken]
        if not candidates:
            raise BackendError(f"{len(states)} conversations in one step, and the context has {self.layout.count}")
        return min(candidates, key=cost)

    def _swap_in(self, state: LlamaState, seq_id: int, states: Collection[LlamaState]) -> None:
        """Give `state` that sequence, whoever has it; where the cells don't suffice, all but `states` make room."""
        source = state.source
        if source is not None and source.seq_id == seq_id:
            # The source makes room for its own fork, which finds what it needs there: nothing to write.
            read = source.data()
            for fork in [source, *(fork for fork in source.forks if fork.length > state.length)]:
                fork.swap_out(read, source.length)
            self._hand_over(source, state)
            self._resident[seq_id] = self._resident.pop(seq_id)
            return
        if seq_id in self._resident:
            self._swap_out(seq_id)
        data, length = state.swapped_out, state.swapped_length
        if source is not None and state.source is source:
            data, length = source.data(), source.length
            state.detach()
        if data is not None and data.size:
            while not self._write(seq_id, data):
                if not self.evict(states):
                    raise BackendError("a conversation's state could not be brought back: the context is too small")
            # The bytes are of the state as it was swapped out; it may have been trimmed since.
            if length != state.length:
                lib.llama_memory_seq_rm(self._memory, seq_id, state.length, -1)
        state.swapped_out, state.seq_id = None, seq_id
        self._resident[seq_id] = state

    def _swap_out(self, seq_id: int) -> None:
        state = self._resident[seq_id]
        if state.length:
            data = self.read(seq_id)
            for fork in [*state.forks]:
                fork.swap_out(data, state.length)
            state.swap_out(data, state.length)
        self.free(state)

    def _write(self, seq_id: int, data: Bytes) -> bool:
        return bool(lib.llama_state_seq_set_data(self._context, _pointer(data), data.size, seq_id))

    def _bytes_of(self, state: LlamaState) -> int:
        """Bytes to copy for moving a state."""
        return self.layout.fixed_bytes + state.length * self.layout.cell_bytes if state.length else 0

    def _compact(self, states: Collection[LlamaState]) -> None:
        """Move states side by side once the gaps between them have cost as much as moving them would.

        llama.cpp computes sequences together whose ids follow one another: each gap costs one more pass over all
        weights, in every step. Who moves at once pays for gaps that would soon have closed by themselves; who never
        moves pays for ever. Waiting until the loss equals the price costs at most twice as much as the best choice made
        with hindsight ("ski rental"; Karlin et al. 1988).
        """
        occupied = {state.seq_id for state in states if state.seq_id is not None}
        gaps = _gaps(list(occupied))
        if not gaps:
            self._gap_bytes = 0
            return
        self._gap_bytes += gaps * self.layout.pass_bytes
        windows = [range(a, a + len(occupied)) for a in range(self.layout.count - len(occupied) + 1)]
        price, window = min(((self._move_bytes(window, occupied), window) for window in windows), key=itemgetter(0))
        if self._gap_bytes < price:
            return
        self._gap_bytes = 0
        outside = [seq_id for seq_id in occupied if seq_id not in window]
        targets = [seq_id for seq_id in window if seq_id not in occupied]
        for seq_id, target in zip(outside, targets, strict=True):
            self._exchange(seq_id, target)

    def _move_bytes(self, window: range, occupied: Collection[int]) -> int:
        """Bytes to copy for having all of `occupied` in `window`: theirs, and those of whom they drive out."""
        outside = (self._resident[seq_id] for seq_id in occupied if seq_id not in window)
        inside = (self._resident[n] for n in window if n in self._resident and n not in occupied)
        return 2 * sum(map(self._bytes_of, (*outside, *inside)))

    def _exchange(self, seq_id: int, target: int) -> None:
        """Let the states of two sequences change places; nobody may have `target`."""
        pairs = [(seq_id, target), (target, seq_id)]
        movers = [(self._resident.pop(n), other) for n, other in pairs if n in self._resident]
        data = [self.read(n) for n in (seq_id, target)][: len(movers)]
        for n in (seq_id, target):
            lib.llama_memory_seq_rm(self._memory, n, -1, -1)
        for (state, place), content in zip(movers, data, strict=True):
            if state.length and not self._write(place, content):
                raise BackendError("a conversation's state could not be moved")
            state.seq_id = place
            self._resident[place] = state
            self.moves += 1


def _gaps(seq_ids: Sequence[int]) -> int:
    """How many times the next id does not follow, in order."""
    ordered = sorted(seq_ids)
    return sum(b != a + 1 for a, b in pairwise(ordered))


def _pointer(buffer: Bytes) -> Any:
    return buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
