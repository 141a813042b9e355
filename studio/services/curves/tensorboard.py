"""A run's points as a TensorBoard event file, with the tags of transformers' TensorBoardCallback.

Uses TensorBoard's own protobuf messages. Checksums are computed for thousands of records at once with numpy, because
its RecordWriter computes them byte by byte in Python. The file is generated while it is read: nothing is written to
disk.

Only this module uses TensorBoard's internals: RELIES_ON names them and what breaks without them, and
tests/unit/project/test_contracts.py checks them against the installed TensorBoard.
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
# Tag of each column, by kind of point. The first column is always written, as nan where it has no value.
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
_POLYNOMIAL = np.uint32(0x82F63B78)  # of CRC-32C (Castagnoli)


def _table() -> NDArray[np.uint32]:
    """Lookup table of a CRC-32C, by byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & np.uint32(1), (table >> np.uint32(1)) ^ _POLYNOMIAL, table >> np.uint32(1))
    return table


_TABLE = _table()


def archive_of(studio: Studio, run_id: str) -> tuple[str, Iterator[bytes]]:
    """The file name and bytes of a zip with a folder named after the run, which TensorBoard uses as the run's name.

    Values are float32, as TensorBoard stores them; steps and wall times, in seconds, are as logged.
    """
    name = downloads.ascii_name(runs.get(studio, run_id).name)
    kinds, columns = curves.everything(studio, run_id)
    started = int(np.nanmin(columns[COLUMNS.index("time")], initial=2**32))
    path = f"{name}/events.out.tfevents.{started:010d}.lora-studio"
    members = [(path, _file(kinds, dict(zip(COLUMNS, columns, strict=True))))]
    return f"{name}-tensorboard.zip", downloads.zipped(members, zipfile.ZIP_DEFLATED)


def _file(kinds: NDArray[np.str_], columns: dict[str, NDArray[np.float64]]) -> Iterator[bytes]:
    """The bytes of an event file, in journal order."""
    # Imported here, not at start: few sessions export an event file.
    from tensorboard.compat.proto.event_pb2 import Event

    order = np.argsort(columns["seq"], kind="stable")
    first = float(columns["time"][order[0]]) if len(order) else 0.0
    yield _records([Event(wall_time=first, file_version="brain.Event:2").SerializeToString()])
    # Reusable messages, by kind and by which columns have values.
    messages: dict[tuple[str, bytes], tuple[Any, list[Any]]] = {}
    for start in range(0, len(order), _ROWS):
        rows = order[start : start + _ROWS]
        serialized = np.empty(len(rows), object)
        for kind, tags in TAGS.items():
            selected = np.flatnonzero(kinds[rows] == kind)
            values = np.array([columns[name][rows[selected]] for name in tags]).T
            present = ~np.isnan(values)
            present[:, 0] = True
            times, steps = columns["time"][rows[selected]].tolist(), columns["step"][rows[selected]].tolist()
            for at, time, step, row, present_row in zip(selected, times, steps, values, present, strict=True):
                key = kind, present_row.tobytes()
                if key not in messages:
                    event = Event()
                    for tag, here in zip(tags.values(), present_row, strict=True):
                        if here:
                            event.summary.value.add(tag=tag)
                    messages[key] = event, list(event.summary.value)
                event, places = messages[key]
                event.wall_time, event.step = time, int(step)
                for place, value in zip(places, row[present_row].tolist(), strict=True):
                    place.simple_value = value
                serialized[at] = event.SerializeToString()
        yield _records(serialized.tolist())


def _records(messages: Sequence[bytes]) -> bytes:
    """Messages as TFRecord records: length, its checksum, message, its checksum."""
    sizes = np.array([len(message) for message in messages], "<u8")
    heads = np.empty(len(messages), [("size", "<u8"), ("sum", "<u4")])
    heads["size"], heads["sum"] = sizes, _sums(sizes.view(np.uint8).reshape(-1, 8))
    ends = np.empty(len(messages), "<u4")
    for size in np.unique(sizes):
        same_size = np.flatnonzero(sizes == size)
        joined = b"".join([messages[at] for at in same_size.tolist()])
        ends[same_size] = _sums(np.frombuffer(joined, np.uint8).reshape(len(same_size), int(size)))
    head, end = heads.tobytes(), ends.tobytes()
    return b"".join(
        [head[12 * at : 12 * at + 12] + message + end[4 * at : 4 * at + 4] for at, message in enumerate(messages)]
    )


def _sums(records: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The masked CRC-32C of each row, as in TFRecord files."""
    crc = np.full(len(records), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(records.T):
        crc = _TABLE[(crc ^ column) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    crc = ~crc
    masked: NDArray[np.uint32] = ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + _MASK
    return masked
