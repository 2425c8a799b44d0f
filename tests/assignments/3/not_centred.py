# mean |x| instead of mean |x - mean x|.
def l1_statistic(x):
    return pairwise_mean(abs(x))
