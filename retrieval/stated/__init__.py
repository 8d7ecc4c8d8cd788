"""Pairs that documents state themselves: statements turned into questions by surface transformations.

In the tradition of over-generating and selecting (Heilman and Smith 2010, *Good Question! Statistical Ranking for
Question Generation*), without a parser: what is in doubt is not proposed.
"""
