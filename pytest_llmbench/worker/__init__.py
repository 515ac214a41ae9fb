"""The measuring side: a server that forks one fresh process per case, and what such a process does."""

from __future__ import annotations
