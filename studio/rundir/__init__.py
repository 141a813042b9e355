"""The run directory: the only thing the studio and a worker share.

    recipe.yaml          in; immutable once started
    dataset.json         in; pointer to the immutable dataset and its sha256
    about.json           in; set by the user: name, notes, tags, star, owner, trashed; its position in the queue
    control/             in; files named stop, cancel, checkpoint: touched by anyone, consumed by the worker
    resume.json          in; instructions for a resuming worker: attempt, checkpoint, how far
    attempts/N/          files of earlier workers: their claim, worker, heartbeat, exit and ended
    events.jsonl         out; append-only journal, one JSON object per line: seq, time, kind, payload, crc; one writer
    heartbeat            out; rewritten every few seconds, with the times of the last beat and of the last progress
    worker.json          out; pid, start time, boot id, host, nonce, library versions, device
    checkpoints/step-N/  out; complete, with MANIFEST.json, or absent
    adapter/             out; the same
    model/               out; the same, instead of adapter/ if every weight was trained
    log.txt              out; stdout and stderr; only the end of a long log
    exit.json            out; how it ended, in a sentence for the user
    ended.json           the studio's finding on the end, from short-lived evidence: signals, the kernel's counters

Events are ordered by `seq`, never by time. A torn last line is ignored by readers and overwritten by the next writer.
An export has a directory of the same form. This package only handles files (and process start times, to tell workers
apart): no database, no torch, and it starts and signals nothing.
"""

from studio.rundir.about import About
from studio.rundir.files import MANIFEST, begin_log, read_json, shorten, tail, write_json, write_new_json, write_text
from studio.rundir.folders import (
    GONE,
    commit_folder,
    free_space_or_raise,
    newest_checkpoint,
    sha256,
    tidy,
    vanish,
    verify_folder,
    whole_folder,
)
from studio.rundir.journal import Event, Journal, Reading, read_events
from studio.rundir.paths import Control, RunDir, create
from studio.rundir.worker import (
    DISK_FULL_STATUS,
    Beat,
    Cause,
    Exit,
    FinalState,
    Identity,
    boot_id,
    process_started,
    resident_bytes,
)

__all__ = [
    "DISK_FULL_STATUS",
    "GONE",
    "MANIFEST",
    "About",
    "Beat",
    "Cause",
    "Control",
    "Event",
    "Exit",
    "FinalState",
    "Identity",
    "Journal",
    "Reading",
    "RunDir",
    "begin_log",
    "boot_id",
    "commit_folder",
    "create",
    "free_space_or_raise",
    "newest_checkpoint",
    "process_started",
    "read_events",
    "read_json",
    "resident_bytes",
    "sha256",
    "shorten",
    "tail",
    "tidy",
    "vanish",
    "verify_folder",
    "whole_folder",
    "write_json",
    "write_new_json",
    "write_text",
]
