"""Samplers in NumPy float64 from their papers, where diffusers and k-diffusion have none or break.

Each takes `model(x, level) -> clean`, the initial latent, the levels to visit with the last one where it ends, and
`draw() -> noise`; it returns the final latent. Where a scheduler class has the same method on other grids, the
generator holds its formula against it. Steps of an exponential integrator to sigma 0 go to the clean estimate.
"""

import numpy as np
from numpy.polynomial import Polynomial

from mixture import noise_in

ADAMS_BASHFORTH = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}


def transfer(x, noise, start, end):
    """The DDIM step (Song et al. 2021, arXiv:2010.02502, eq. 12, no fresh noise) along a noise estimate."""
    return end.alpha * (x - start.sigma * noise) / start.alpha + end.sigma * noise


def move(x, clean, start, end):
    """The same step along an estimate of the clean latent; it also starts where alpha is 0."""
    return end.alpha * clean + end.sigma * noise_in(x, clean, start)


def euler(model, x, levels, draw):
    for start, end in zip(levels, levels[1:]):
        x = move(x, model(x, start), start, end)
    return x


def ddim(model, x, levels, draw, eta=0.0, limit=lambda clean: clean):
    """Song et al. 2021, eqs. 12 and 16. The clean estimate is limited after the noise estimate is taken from it."""
    for start, end in zip(levels, levels[1:]):
        clean = model(x, start)
        noise = noise_in(x, clean, start)
        fresh = eta * end.sigma / start.sigma * np.sqrt(max(1 - (start.alpha / end.alpha) ** 2, 0))
        x = end.alpha * limit(clean) + np.sqrt(end.sigma**2 - fresh**2) * noise
        if eta > 0:
            x = x + fresh * draw()
    return x


def threshold(clean, quantile, largest):
    """Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3), of a bound within 1 and `largest`."""
    bound = np.clip(np.quantile(np.abs(clean), quantile), 1, largest)
    return np.clip(clean, -bound, bound) / bound


def plms(model, x, levels, draw):
    """Liu et al. 2022, arXiv:2202.09778, without Runge-Kutta steps: the first one averages the noise at both ends."""
    history = []
    for step, (start, end) in enumerate(zip(levels, levels[1:])):
        history.append(noise_in(x, model(x, start), start))
        if step == 0 and len(levels) > 2:
            ahead = transfer(x, history[0], start, end)
            noise = (history[0] + noise_in(ahead, model(ahead, end), end)) / 2
        else:
            noise = adams_bashforth(history, 4)
        x = transfer(x, noise, start, end)
    return x


def pndm(model, x, levels, draw, between):
    """Liu et al. 2022, algorithm 2: three pseudo Runge-Kutta steps, then linear multistep.

    `between(start, end)` is the level halfway in timesteps. The last step is never Runge-Kutta, so that a run of
    fewer than four steps, which has no meaning in the reference, works too.
    """
    history = []
    for step, (start, end) in enumerate(zip(levels, levels[1:])):
        first = noise_in(x, model(x, start), start)
        history.append(first)
        if step < 3 and step < len(levels) - 2:
            noise = runge_kutta_noise(model, x, first, start, between(start, end), end)
        else:
            noise = adams_bashforth(history, 4)
        x = transfer(x, noise, start, end)
    return x


def runge_kutta_noise(model, x, first, start, middle, end):
    second = noise_at(model, transfer(x, first, start, middle), middle)
    third = noise_at(model, transfer(x, second, start, middle), middle)
    fourth = noise_at(model, transfer(x, third, start, end), end)
    return (first + 2 * second + 2 * third + fourth) / 6


def noise_at(model, x, level):
    return noise_in(x, model(x, level), level)


def adams_bashforth(history, order):
    weights = ADAMS_BASHFORTH[min(order, len(history))]
    return sum(weight * value for weight, value in zip(weights, reversed(history)))


def ipndm(model, x, levels, draw, order):
    """Zhang & Chen 2023, arXiv:2204.13902, as in ComfyUI: Adams-Bashforth of equal steps, whatever the steps are."""
    history = []
    for start, end in zip(levels, levels[1:]):
        clean = model(x, start)
        history.append((x - clean) / start.sigma)
        x = x + (end.sigma - start.sigma) * adams_bashforth(history, order) if end.sigma else clean
    return x


def runge_kutta(model, x, levels, draw, order, at):
    """Explicit Runge-Kutta of dx/dsigma = (x - clean) / sigma, alpha = 1. `at(sigma)` is the level of a sigma.

    The classical fourth-order tableau evaluates at its end, where sigma may be 0; there Heun's third-order one steps.
    """
    for start, end in zip(levels, levels[1:]):
        tableau = TABLEAUX[3 if order == 4 and end.sigma == 0 else order]
        x = runge_kutta_step(model, x, start, end, tableau, at)
    return x


# Each stage's node and weights of the slopes before it, then the weights of all slopes.
TABLEAUX = {
    2: ([(0, []), (1 / 2, [1 / 2])], [0, 1]),
    3: ([(0, []), (1 / 3, [1 / 3]), (2 / 3, [0, 2 / 3])], [1 / 4, 0, 3 / 4]),
    4: ([(0, []), (1 / 2, [1 / 2]), (1 / 2, [0, 1 / 2]), (1, [0, 0, 1])], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
}


def runge_kutta_step(model, x, start, end, tableau, at):
    stages, weights = tableau
    width, slopes = end.sigma - start.sigma, []
    for node, row in stages:
        point = x + width * weighted(row, slopes)
        level = {0: start, 1: end}.get(node) or at(start.sigma + node * width)
        slopes.append((point - model(point, level)) / level.sigma)
    return x + width * weighted(weights, slopes)


def weighted(weights, values):
    return sum(weight * value for weight, value in zip(weights, values))


def flow_heun(model, x, levels, draw):
    """Heun's method on the velocity of a flow, dx/dsigma = noise - clean; Euler's where the step ends at sigma 0."""
    for start, end in zip(levels, levels[1:]):
        width = end.sigma - start.sigma
        slope = velocity_at(model, x, start)
        if end.sigma > 0:
            slope = (slope + velocity_at(model, x + width * slope, end)) / 2
        x = x + width * slope
    return x


def velocity_at(model, x, level):
    return (x - model(x, level)) / level.sigma


def multistep_orders(order, levels):
    """The order of each multistep step: it starts at 1, and ends lower where steps are few or the end has no noise."""
    steps = len(levels) - 1
    orders = [min(order, step + 1) for step in range(steps)]
    if steps < 15 and steps > 1:
        orders[-2] = min(orders[-2], 2)
    if steps < 15 or levels[-1].sigma == 0:
        orders[-1] = 1
    return orders


def dpm_multistep(model, x, levels, draw, order):
    """DPM-Solver on the noise estimate (Lu et al. 2022, arXiv:2206.00927), multistep as in its authors' code."""
    history = []
    for step, step_order in enumerate(multistep_orders(order, levels)):
        start, end = levels[step], levels[step + 1]
        clean = model(x, start)
        history.append(noise_in(x, clean, start))
        h = end.half_log_snr - start.half_log_snr
        if end.sigma == 0:
            x = clean
        if end.sigma == 0 or h == 0:
            continue
        first, second = divided_differences(history, levels[: step + 1], step_order, h)
        growth = np.expm1(h)
        x = end.alpha / start.alpha * x - end.sigma * growth * history[-1]
        if step_order == 2:
            x = x - end.sigma * growth / 2 * first
        if step_order == 3:
            x = x - end.sigma * ((growth / h - 1) * first + ((growth - h) / h**2 - 0.5) * second)
    return x


def divided_differences(history, levels, order, h):
    """Slope and second divided difference of the last estimates at the newest one, over half log-SNR in units of h."""
    times = [level.half_log_snr / h for level in levels[-order:]]
    if order == 1:
        return 0, 0
    newest = (history[-1] - history[-2]) / (times[-1] - times[-2])
    if order == 2:
        return newest, 0
    older = (history[-2] - history[-3]) / (times[-2] - times[-3])
    second = (newest - older) / (times[-1] - times[-3])
    return newest + (times[-1] - times[-2]) * second, second


def dpm_multistep_sde(model, x, levels, draw, order):
    """The reverse SDE on the noise estimate, midpoint form of its authors' code. To no noise it steps to the estimate:
    the formula would add as much noise as it removes."""
    history = []
    for step, step_order in enumerate(multistep_orders(order, levels)):
        start, end = levels[step], levels[step + 1]
        clean = model(x, start)
        history.append(noise_in(x, clean, start))
        h = end.half_log_snr - start.half_log_snr
        if end.sigma == 0:
            x = clean
        if end.sigma == 0 or h == 0:
            continue
        first, _ = divided_differences(history, levels[: step + 1], step_order, h)
        x = end.alpha / start.alpha * x - end.sigma * np.expm1(h) * (2 * history[-1] + first)
        x = x + end.sigma * np.sqrt(np.expm1(2 * h)) * draw()
    return x


def singlestep_orders(order, levels):
    """Steps in groups of 1, 2, …, order; what is left over at the end, and a step to no noise, is of lower order."""
    steps = len(levels) - 1
    whole = steps // order - (steps % order == 0)
    rest = steps - whole * order
    tail = {1: [1], 2: [1, 2] if order == 3 else [1, 1], 3: [1, 2, 1]}[rest]
    orders = [*range(1, order + 1)] * whole + tail
    if levels[-1].sigma == 0:
        orders[-1] = 1
    return orders


def dpm_singlestep(model, x, levels, draw, order):
    """DPM-Solver on the noise estimate, singlestep: each step of a group starts anew where the group started."""
    for step, step_order in enumerate(singlestep_orders(order, levels)):
        if step_order == 1:
            history, origin = [], x
        group, end = levels[step - step_order + 1 : step + 1], levels[step + 1]
        clean = model(x, levels[step])
        history.append(noise_in(x, clean, levels[step]))
        x = clean if end.sigma == 0 else singlestep(origin, history, group, end)
    return x


def singlestep(origin, history, group, end):
    start = group[0]
    h = end.half_log_snr - start.half_log_snr
    growth = np.expm1(h)
    x = end.alpha / start.alpha * origin - end.sigma * growth * history[0]
    if len(group) == 1:
        return x
    slope = (history[-1] - history[0]) / ((group[-1].half_log_snr - start.half_log_snr) / h)
    weight = growth / 2 if len(group) == 2 else growth / h - 1
    return x - end.sigma * weight * slope


def deis(model, x, levels, draw, order):
    """DEIS in log rho (Zhang & Chen 2023, arXiv:2204.13902): x / alpha moves by the integral over rho = sigma / alpha
    of the polynomial in log rho through the last noise estimates."""
    history = []
    for step, step_order in enumerate(multistep_orders(order, levels)):
        start, end = levels[step], levels[step + 1]
        clean = model(x, start)
        history.append(noise_in(x, clean, start))
        if end.sigma == 0:
            x = clean
            continue
        nodes = [np.log(level.ratio / start.ratio) for level in levels[step::-1][:step_order]]
        moved = x / start.alpha
        for basis, noise in zip(lagrange(nodes), reversed(history)):
            weight = integral_in_log(basis, end.ratio, start.ratio) - integral_in_log(basis, start.ratio, start.ratio)
            moved = moved + weight * noise
        x = end.alpha * moved
    return x


def lagrange(nodes):
    """The polynomials that are 1 at one node and 0 at the others."""
    for i, node in enumerate(nodes):
        others = nodes[:i] + nodes[i + 1 :]
        product = Polynomial([1.0])
        for other in others:
            product = product * Polynomial([-other, 1.0]) / (node - other)
        yield product


def integral_in_log(polynomial, rho, unit):
    """An antiderivative over rho of a polynomial in u = log(rho / unit): of u^k it is rho u^k - k (that of u^(k-1))."""
    u, total, antiderivative = np.log(rho / unit), 0.0, 0.0
    for k, coefficient in enumerate(polynomial.coef):
        antiderivative = rho * u**k - k * antiderivative
        total += coefficient * antiderivative
    return total


def unipc(model, x, levels, draw, order, scale_of):
    """UniPC on the clean estimate (Zhao et al. 2023, arXiv:2302.04867, algorithms 5 and 7); `scale_of` is its B.

    The corrector uses the estimate of the predicted latent, so there is one evaluation a step.
    """
    history, steps, before, used = [], len(levels) - 1, x, 0
    for step in range(steps):
        estimate = model(x, levels[step])
        if step > 0:
            x = unipc_update(before, history, levels[: step + 1], used, scale_of, estimate)
        history.append(estimate)
        used, before = min(order, steps - step, step + 1), x
        x = unipc_update(x, history, levels[: step + 2], used, scale_of)
    return x


def unipc_update(x, history, levels, order, scale_of, at_end=None):
    """From the last level but one to the last. With the estimate `at_end` it corrects, without it predicts."""
    start, end = levels[-2], levels[-1]
    if end.sigma == 0:
        return history[-1]
    h = end.half_log_snr - start.half_log_snr
    nodes = [(level.half_log_snr - start.half_log_snr) / h for level in levels[-3::-1][: order - 1]]
    differences = [(old - history[-1]) / node for old, node in zip(history[-2::-1], nodes)]
    if at_end is not None:
        nodes, differences = [*nodes, 1.0], [*differences, at_end - history[-1]]
    scale = scale_of(-h)
    weights = unipc_weights(nodes, -h, scale)
    x = end.sigma / start.sigma * x - end.alpha * np.expm1(-h) * history[-1]
    return x - end.alpha * scale * weighted(weights, differences)


def unipc_weights(nodes, z, scale):
    """Zhao et al. 2023, eq. 9. A single unknown is one half, which keeps the order, as the paper notes."""
    if len(nodes) < 2:
        return [0.5] * len(nodes)
    phi, factorial, right = np.expm1(z) / z, 1, []
    for k in range(1, len(nodes) + 1):
        factorial *= k
        phi = (phi - 1 / factorial) / z
        right.append(z * phi * factorial / scale)
    return np.linalg.solve(np.vander(nodes, increasing=True).T, right)


def sa(model, x, levels, draw, predictor, corrector, tau):
    """SA-Solver on the clean estimate (Xue et al. 2023, arXiv:2309.05019). `tau(timestep)` scales the fresh noise.

    The corrector of a step uses the noise and the tau of its predictor.
    """
    history, steps = [], len(levels) - 1
    for step in range(steps):
        start, end = levels[step], levels[step + 1]
        history.append(model(x, start))
        if step > 0:
            order = min(corrector, steps - step + 2)
            x = sa_update(before, history, levels[step::-1][:order], levels[step - 1], start, spread, noise)
        before, spread, noise = x, tau(start.timestep), draw()
        order = min(predictor, steps - step)
        x = sa_update(x, history, levels[step::-1][:order], start, end, spread, noise)
    return x


def sa_update(x, history, nodes, start, end, tau, noise):
    """From start to end, through the last estimates at `nodes`, the newest first."""
    if end.sigma == 0:
        return history[-1]
    h, rate = end.half_log_snr - start.half_log_snr, 1 + tau**2
    x = np.exp(-(tau**2) * h) * end.sigma / start.sigma * x
    x = x + rate * end.alpha * sa_integral(history[::-1], nodes, start, end, rate)
    return x + end.sigma * np.sqrt(-np.expm1(-2 * tau**2 * h)) * noise


def sa_integral(values, nodes, start, end, rate):
    """The integral of e^(rate (t - end)) times the polynomial through the estimates, over the step.

    With two nodes the authors' code takes h^2 / 2 for the integral of e^(…) (t - start).
    """
    h, times = end.half_log_snr - start.half_log_snr, [node.half_log_snr - end.half_log_snr for node in nodes]
    if len(nodes) == 2:
        slope = (values[0] - values[1]) / (times[0] - times[1])
        return exponential_moment(0, h, rate) * values[nodes.index(start)] + h**2 / 2 * slope
    bases = [basis.coef for basis in lagrange(times)]
    weights = [sum(c * exponential_moment(k, h, rate) for k, c in enumerate(basis)) for basis in bases]
    return weighted(weights, values)


def exponential_moment(k, h, rate):
    """The integral of e^(rate v) v^k over v from -h to 0."""
    if k == 0:
        return -np.expm1(-rate * h) / rate
    return (-((-h) ** k) * np.exp(-rate * h) - k * exponential_moment(k - 1, h, rate)) / rate
