"""The loggers of a run, Lightning's: where the course of a training goes besides the files of the run directory."""
