"""The rule by which a metric is judged. Imported by pytest, so nothing here imports torch."""

from __future__ import annotations

from pytest_llmbench import Metric, Tolerance

__all__ = ["saved_tensors"]

saved_tensors = Metric(
    name="saved_tensors_per_sample",
    unit="1",
    better="lower",
    gate="exact",
    tolerance=Tolerance(0.02),
    describe="Tensors per sample that the forward pass keeps for the backward pass.",
)
