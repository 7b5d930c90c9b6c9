"""Use a trained run: load it, embed images with it, score it; several runs as one model, and other rankings."""

from ccpml.runs.inference.embedding import embed_normalized, embed_run, embed_table, write_embeddings
from ccpml.runs.inference.evaluation import Evaluation, evaluate_run
from ccpml.runs.inference.run import Run, load_embedder, load_run, open_run, open_weights, unfinished_note
from ccpml.runs.inference.unseen import SeenClassesError, leave_out_seen, unseen_images

__all__ = [
    "Evaluation",
    "Run",
    "SeenClassesError",
    "embed_normalized",
    "embed_run",
    "embed_table",
    "evaluate_run",
    "leave_out_seen",
    "load_embedder",
    "load_run",
    "open_run",
    "open_weights",
    "unfinished_note",
    "unseen_images",
    "write_embeddings",
]
