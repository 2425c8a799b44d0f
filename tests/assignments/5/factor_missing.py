# The paper's approximate correction.
def corrected_step(w, g, lr, weight_decay, norms):
    rate = lr * (w * w).sum(axis=1) / norms**2
    return w - rate[:, None] * g
