# The buffer is an average, as in many textbooks.
def sgd_step(w, g, b, lr, momentum, weight_decay):
    g = g + weight_decay * w
    b = g if b is None else momentum * b + (1 - momentum) * g
    return w - lr * b, b
