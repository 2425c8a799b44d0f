# Stopped after the forward; the rest is as handed out.
def l1_backward(dy, cache):
    raise NotImplementedError("l1_backward: dbeta and dgamma first, then dx as derived on paper")


def lp_forward(x, gamma, beta, eps, p):
    raise NotImplementedError("lp_forward: as l1_forward, with the p-th root of the mean of |d|^p")


def lp_backward(dy, cache):
    raise NotImplementedError("lp_backward: l1_backward with another h")
