"""Use a trained run: load it, embed images with it, score it; several runs as one model, and other rankings."""

from ccpml.runs.inference.run import (
    Evaluation,
    Run,
    SeenClassesError,
    embed_run,
    embed_table,
    evaluate_run,
    leave_out_seen,
    load_embedder,
    load_run,
    unseen_images,
    write_embeddings,
)

__all__ = [
    "Evaluation",
    "Run",
    "SeenClassesError",
    "embed_run",
    "embed_table",
    "evaluate_run",
    "leave_out_seen",
    "load_embedder",
    "load_run",
    "unseen_images",
    "write_embeddings",
]
