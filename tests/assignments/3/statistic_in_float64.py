# Everything in float64, rounded at the end.
def l1_statistic(x):
    x = x.astype("float64")
    return np.float16(abs(x - x.mean()).mean())
