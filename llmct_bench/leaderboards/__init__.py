"""Leaderboards: tables, rank intervals, figures, pages."""

from llmct_bench.leaderboards.board import Leaderboard, Row, TraitTable, leaderboard

__all__ = ["Leaderboard", "Row", "TraitTable", "leaderboard"]
