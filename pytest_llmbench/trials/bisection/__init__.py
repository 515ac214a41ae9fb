"""Finding the one package, of all that differ between two lock files, whose change moves a metric."""

from __future__ import annotations
