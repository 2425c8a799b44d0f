# Corrects the step and decays the weight, too.
def corrected_step(w, g, lr, weight_decay, norms):
    rate = lr / (1 - lr * weight_decay) * (w * w).sum(axis=1) / norms**2
    return (1 - lr * weight_decay) * w - rate[:, None] * g
