# The sum of question 1 again.
def pairwise_sum(x):
    return sequential_sum(x)
