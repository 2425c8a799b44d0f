# Far too small a learning rate.
step = sgd_step


def sgd_step(w, g, b, lr, momentum, weight_decay):
    return step(w, g, b, 0.002 * lr, momentum, weight_decay)
