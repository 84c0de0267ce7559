"""How far a policy has left its pool, and what the pool still says about it (MATH §9).

sums      figures that add over micro-batches and processes
"""
