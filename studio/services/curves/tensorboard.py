"""A run's points as an event file of TensorBoard's, with the tags that transformers' TensorBoardCallback gives them.

TensorBoard's own messages; the check sums are made of thousands of records at once, which its RecordWriter makes byte
by byte in Python. A file is made while it is read: nothing is written to disk.

The room of TensorBoard's inside: RELIES_ON names what of it is used, and what would be broken without it;
tests/unit/project/test_contracts.py holds the installed TensorBoard to that.
"""

import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studio.services.core.studio import Studio
from studio.services.curves import curves
from studio.services.exports import downloads
from studio.services.runs import runs
from studio.store.series.columns import COLUMNS

RELIES_ON = {
    "tensorboard.compat.proto.event_pb2.Event": "no event file of a run could be made",
}
# By kind of point: what a column is called there. Of the first there is always a value, if only "not a number".
TAGS = {
    "metric": {
        "loss": "train/loss",
        "learning_rate": "train/learning_rate",
        "grad_norm": "train/grad_norm",
        "epoch": "train/epoch",
        "tokens": "train/num_tokens",
        "token_accuracy": "train/mean_token_accuracy",
        "tokens_per_s": "train/tokens_per_s",
        "step_seconds": "train/step_seconds",
        "memory": "train/memory",
    },
    "eval": {"eval_loss": "eval/loss", "token_accuracy": "eval/mean_token_accuracy", "epoch": "train/epoch"},
}
_ROWS = 4096
_MASK = np.uint32(0xA282EAD8)
_POLYNOMIAL = np.uint32(0x82F63B78)  # of CRC-32C, Castagnoli's


def _table() -> NDArray[np.uint32]:
    """What each byte adds to a CRC-32C."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & np.uint32(1), (table >> np.uint32(1)) ^ _POLYNOMIAL, table >> np.uint32(1))
    return table


_TABLE = _table()


def archive_of(studio: Studio, run_id: str) -> tuple[str, Iterator[bytes]]:
    """A name and the bytes of a zip with a folder of the run's name, which TensorBoard takes for the name of the run.

    Values are there as TensorBoard keeps them, in float32; steps, and wall time in seconds, as they were logged.
    """
    name = downloads.ascii_name(runs.get(studio, run_id).name)
    kinds, columns = curves.everything(studio, run_id)
    began = int(np.nanmin(columns[COLUMNS.index("time")], initial=2**32))
    inside = f"{name}/events.out.tfevents.{began:010d}.lora-studio"
    members = [(inside, _file(kinds, dict(zip(COLUMNS, columns, strict=True))))]
    return f"{name}-tensorboard.zip", downloads.zipped(members, zipfile.ZIP_DEFLATED)


def _file(kinds: NDArray[np.str_], columns: dict[str, NDArray[np.float64]]) -> Iterator[bytes]:
    """An event file in the order of the journal."""
    # Not with the studio: few who open it want one.
    from tensorboard.compat.proto.event_pb2 import Event

    order = np.argsort(columns["seq"], kind="stable")
    first = float(columns["time"][order[0]]) if len(order) else 0.0
    yield _records([Event(wall_time=first, file_version="brain.Event:2").SerializeToString()])
    known: dict[tuple[str, bytes], tuple[Any, list[Any]]] = {}  # messages to fill in, by what a point has values of
    for start in range(0, len(order), _ROWS):
        rows = order[start : start + _ROWS]
        found = np.empty(len(rows), object)
        for kind, tags in TAGS.items():
            chosen = np.flatnonzero(kinds[rows] == kind)
            values = np.array([columns[name][rows[chosen]] for name in tags]).T
            there = ~np.isnan(values)
            there[:, 0] = True
            times, steps = columns["time"][rows[chosen]].tolist(), columns["step"][rows[chosen]].tolist()
            for at, time, step, row, has in zip(chosen, times, steps, values, there, strict=True):
                key = kind, has.tobytes()
                if key not in known:
                    event = Event()
                    for tag, here in zip(tags.values(), has, strict=True):
                        if here:
                            event.summary.value.add(tag=tag)
                    known[key] = event, list(event.summary.value)
                event, places = known[key]
                event.wall_time, event.step = time, int(step)
                for place, value in zip(places, row[has].tolist(), strict=True):
                    place.simple_value = value
                found[at] = event.SerializeToString()
        yield _records(found.tolist())


def _records(messages: Sequence[bytes]) -> bytes:
    """Messages as a TFRecord file has them: length, its check sum, the message, its check sum."""
    sizes = np.array([len(message) for message in messages], "<u8")
    heads = np.empty(len(messages), [("size", "<u8"), ("sum", "<u4")])
    heads["size"], heads["sum"] = sizes, _sums(sizes.view(np.uint8).reshape(-1, 8))
    ends = np.empty(len(messages), "<u4")
    for size in np.unique(sizes):
        alike = np.flatnonzero(sizes == size)
        together = b"".join([messages[at] for at in alike.tolist()])
        ends[alike] = _sums(np.frombuffer(together, np.uint8).reshape(len(alike), int(size)))
    head, end = heads.tobytes(), ends.tobytes()
    return b"".join(
        [head[12 * at : 12 * at + 12] + message + end[4 * at : 4 * at + 4] for at, message in enumerate(messages)]
    )


def _sums(records: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The masked CRC-32C of each row, as TFRecord files have it."""
    crc = np.full(len(records), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(records.T):
        crc = _TABLE[(crc ^ column) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    crc = ~crc
    masked: NDArray[np.uint32] = ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + _MASK
    return masked
