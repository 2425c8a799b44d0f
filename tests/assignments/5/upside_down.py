# The ratio of the norms is upside down.
def corrected_step(w, g, lr, weight_decay, norms):
    rate = lr / (1 - lr * weight_decay) * norms**2 / (w * w).sum(axis=1)
    return w - rate[:, None] * g
