"""How far a policy has left its pool, and what the pool still says about it (MATH §9).

sums      figures that add over micro-batches and processes
tail      k-hat: how heavy the tail of the weights is
value     the policy's mean reward from the pool alone, or why it cannot be told
runs      a run as its record tells it: recipe, weights, what it trained on
measure   all of it for one run, with the verdict (data/verdict.py); show prints it (`python -m trainer.drift run=NAME`)
"""
