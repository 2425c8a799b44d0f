# None is not looked at: the first step raises.
def sgd_step(w, g, b, lr, momentum, weight_decay):
    b = momentum * b + g + weight_decay * w
    return w - lr * b, b
