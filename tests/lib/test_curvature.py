"""Curvature against closed forms and dense references: autograd is never compared with itself alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from descentmaps.curvature import (
    alignment,
    gradient_noise,
    hessian_operator,
    per_sample_gradients,
    spectral_density,
    top_eigenpairs,
    trace,
)
from descentmaps.problems import mlp

torch.manual_seed(0)
X = torch.randn(37, 5, dtype=torch.float64)
LABELS = torch.randint(3, (37,))


def dense(op) -> np.ndarray:
    return np.column_stack([op.matvec(unit) for unit in np.eye(op.shape[0])])


def ragged(x, y, size=8):
    return list(zip(x.split(size), y.split(size), strict=True))


class TestClosedForms:
    def test_linear_regression(self):
        """Half the squared error of a linear model has the Hessian X'X / n."""
        model = torch.nn.Linear(5, 1, bias=False, dtype=torch.float64)
        y = torch.randn(37, 1, dtype=torch.float64)
        op = hessian_operator(model, lambda o, t: mse_loss(o, t) / 2, (X, y))
        np.testing.assert_allclose(dense(op), (X.T @ X / 37).numpy(), rtol=1e-10, atol=1e-13)

    def test_logistic_regression(self):
        model = torch.nn.Linear(5, 1, bias=False, dtype=torch.float64)
        y = torch.randint(2, (37, 1)).double()
        op = hessian_operator(model, torch.nn.BCEWithLogitsLoss(), (X, y))
        p = torch.sigmoid(model(X)).detach()
        np.testing.assert_allclose(dense(op), (X.T @ (X * p * (1 - p)) / 37).numpy(), rtol=1e-10, atol=1e-13)

    def test_softmax_regression(self):
        model = torch.nn.Linear(5, 3, bias=False, dtype=torch.float64)
        op = hessian_operator(model, cross_entropy, (X, LABELS))
        p = torch.softmax(model(X), dim=1).detach().numpy()
        blocks = np.einsum("na,ab->nab", p, np.eye(3)) - np.einsum("na,nb->nab", p, p)
        expected = np.einsum("nab,ni,nj->aibj", blocks, X.numpy(), X.numpy()).reshape(15, 15) / 37
        np.testing.assert_allclose(dense(op), expected, rtol=1e-10, atol=1e-13)

    def test_loss_linear_in_the_parameters(self):
        model = torch.nn.Linear(5, 1, dtype=torch.float64)
        op = hessian_operator(model, lambda o, t: o.mean(), (X, LABELS))
        assert not dense(op).any()


class TestHessian:
    def network(self):
        return mlp(5, 4, 3, seed=1)

    def reference(self, model):
        names, values = zip(*model.named_parameters(), strict=True)
        shapes = [value.shape for value in values]

        def value(flat):
            parts = [p.reshape(s) for p, s in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]
            return cross_entropy(torch.func.functional_call(model, dict(zip(names, parts, strict=True)), (X,)), LABELS)

        return torch.autograd.functional.hessian(value, torch.cat([v.detach().reshape(-1) for v in values])).numpy()

    def test_small_network(self):
        model = self.network()
        op = hessian_operator(model, cross_entropy, (X, LABELS))
        np.testing.assert_allclose(dense(op), self.reference(model), rtol=1e-8, atol=1e-12)

    def test_ragged_batches_change_nothing(self):
        model = self.network()
        whole = dense(hessian_operator(model, cross_entropy, (X, LABELS)))
        parts = dense(hessian_operator(model, cross_entropy, ragged(X, LABELS)))
        np.testing.assert_allclose(parts, whole, rtol=1e-10, atol=1e-13)

    @pytest.mark.parametrize("change", ["in place", "data"])
    def test_notices_that_parameters_changed(self, change):
        """Through `.data` torch itself notices nothing, and a kept graph would answer for the old point."""
        model = self.network()
        op = hessian_operator(model, cross_entropy, (X, LABELS))
        op.matvec(np.ones(op.shape[0]))
        with torch.no_grad():
            for p in model.parameters():
                (p.data if change == "data" else p).mul_(1.5)
        np.testing.assert_allclose(dense(op), self.reference(model), rtol=1e-8, atol=1e-12)

    def test_frozen_parameters_are_left_out(self):
        model = self.network()
        model[0].weight.requires_grad_(False)
        rest = np.arange(model[0].weight.numel(), sum(p.numel() for p in model.parameters()))
        op = hessian_operator(model, cross_entropy, (X, LABELS))
        np.testing.assert_allclose(dense(op), self.reference(model)[np.ix_(rest, rest)], rtol=1e-8, atol=1e-12)

    def test_tied_parameters_count_once(self):
        model = torch.nn.Sequential(*[torch.nn.Linear(5, 5, bias=False, dtype=torch.float64) for _ in range(2)])
        model[1].weight = model[0].weight
        op = hessian_operator(model, mse_loss, (X, X))
        assert op.shape == (25, 25)
        matrix = dense(op)
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)

    def test_mode_is_untouched(self):
        for training in (True, False):
            model = self.network().train(training)
            dense(hessian_operator(model, cross_entropy, (X, LABELS)))
            assert model.training is training

    def test_works_where_gradients_are_off(self):
        model = self.network()
        op = hessian_operator(model, cross_entropy, (X, LABELS))
        with torch.no_grad():
            np.testing.assert_allclose(dense(op), self.reference(model), rtol=1e-8, atol=1e-12)


class TestBadInput:
    @pytest.mark.parametrize("layer", [torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4, dtype=torch.float64)])
    @pytest.mark.parametrize("function", [hessian_operator, gradient_noise])
    def test_what_differs_each_time_is_refused_in_training_mode_only(self, layer, function):
        model = torch.nn.Sequential(mlp(5, 4), layer, mlp(4, 3))
        with pytest.raises(ValueError, match=r"model must compute the same each time, but 1 \((Dropout|BatchNorm1d)\)"):
            function(model.train(), cross_entropy, (X, LABELS))
        function(model.eval(), cross_entropy, (X, LABELS))

    def test_no_trainable_parameters(self):
        with pytest.raises(ValueError, match="model must have trainable parameters, got a Tanh without any"):
            hessian_operator(torch.nn.Tanh(), mse_loss, (X, X))

    def test_sum_for_a_loss(self):
        with pytest.raises(ValueError, match="loss must be the mean over the samples, got reduction='sum'"):
            hessian_operator(mlp(5, 3), torch.nn.CrossEntropyLoss(reduction="sum"), (X, LABELS))

    @pytest.mark.parametrize("data", [(X, LABELS[:3]), [(X,)]])
    def test_data_that_are_no_pairs(self, data):
        with pytest.raises(ValueError, match=r"data must be a pair \(inputs, targets\) of one length"):
            hessian_operator(mlp(5, 3), cross_entropy, data)

    def test_no_data(self):
        with pytest.raises(ValueError, match="data must hold at least one sample, got none"):
            hessian_operator(mlp(5, 3), cross_entropy, (X[:0], LABELS[:0]))


def symmetric(eigenvalues) -> np.ndarray:
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((len(eigenvalues),) * 2))[0]
    return rotation * eigenvalues @ rotation.T


class TestTopEigenpairs:
    eigenvalues = np.concatenate([[9, -8, 7, 6, -5], np.linspace(-1, 1, 195)])

    @pytest.mark.parametrize(
        ("which", "expected"), [("LM", [9, -8, 7, 6, -5]), ("LA", [9, 7, 6, 1]), ("SA", [-8, -5, -1])]
    )
    def test_values_and_order(self, which, expected):
        top = top_eigenpairs(symmetric(self.eigenvalues), len(expected), which)
        np.testing.assert_allclose(top.values, expected, rtol=1e-6)
        assert top.converged.all()

    def test_residuals_are_those_of_the_pairs(self):
        matrix = symmetric(self.eigenvalues)
        top = top_eigenpairs(matrix, 3)
        residuals = np.linalg.norm(matrix @ top.vectors - top.vectors * top.values, axis=0)
        np.testing.assert_allclose(top.residuals, residuals, atol=1e-12)
        np.testing.assert_allclose(top.vectors.T @ top.vectors, np.eye(3), atol=1e-10)

    def test_out_of_range(self):
        with pytest.raises(ValueError, match="k must be at least 1 and below the 200 dimensions of op, got 200"):
            top_eigenpairs(symmetric(self.eigenvalues), 200)
        with pytest.raises(ValueError, match="which must be 'LM', 'LA' or 'SA', got 'SM'"):
            top_eigenpairs(symmetric(self.eigenvalues), 2, "SM")


class TestSpectralDensity:
    eigenvalues = np.concatenate([np.linspace(0, 1, 290), np.linspace(3, 10, 10)])

    def test_moments_are_within_chance(self):
        rho = spectral_density(symmetric(self.eigenvalues), n_probes=30, n_steps=40)
        assert rho.weights.sum() == pytest.approx(1)
        for power in (1, 2, 3):
            per_probe = 30 * (rho.weights * rho.nodes**power).sum(axis=1)
            error = per_probe.std(ddof=1) / np.sqrt(30)
            assert abs(per_probe.mean() - np.mean(self.eigenvalues**power)) < 4 * error

    def test_density_has_mass_one_and_lies_in_its_band(self):
        rho = spectral_density(symmetric(self.eigenvalues))
        assert np.trapezoid(rho.density, rho.grid) == pytest.approx(1, abs=1e-3)
        assert (rho.band[0] <= rho.band[1]).all()
        assert np.mean((rho.band[0] <= rho.density) & (rho.density <= rho.band[1])) > 0.95

    def test_as_many_steps_as_dimensions_give_the_spectrum(self):
        """With full orthogonalisation there are no ghosts: each eigenvalue comes once."""
        eigenvalues = np.array([1.0, 2.0, 3.0, 5.0, 8.0])
        rho = spectral_density(symmetric(eigenvalues), n_probes=3, n_steps=50)
        np.testing.assert_allclose(rho.nodes, np.tile(eigenvalues, (3, 1)), atol=1e-10)

    def test_long_runs_have_no_ghosts(self):
        rho = spectral_density(symmetric(self.eigenvalues), n_probes=2, n_steps=200)
        for nodes in rho.nodes:
            assert np.count_nonzero(nodes > 9.5) == 1

    def test_deflated_pairs_are_exact(self):
        matrix = symmetric(self.eigenvalues)
        top = top_eigenpairs(matrix, 10, "LA", tolerance=1e-10)
        rho = spectral_density(matrix, deflate=top)
        outside = rho.nodes > 2
        assert rho.weights[outside].sum() == pytest.approx(10 / 300)
        np.testing.assert_allclose(np.unique(rho.nodes[outside].round(6)), np.linspace(3, 10, 10), rtol=1e-5)
        assert rho.weights.sum() == pytest.approx(1)

    def test_bad_numbers(self):
        with pytest.raises(ValueError, match="n_probes and n_steps must be at least 1, got 0 and 80"):
            spectral_density(np.eye(3), n_probes=0)


def test_trace_is_within_its_error():
    eigenvalues = np.linspace(-1, 3, 100)
    estimate = trace(symmetric(eigenvalues), n_probes=400)
    assert abs(estimate.value - eigenvalues.sum()) < 4 * estimate.error
    assert estimate.error < 3
    assert trace(np.diag(eigenvalues), n_probes=2).value == pytest.approx(eigenvalues.sum())


class TestGradientNoise:
    def by_hand(self, model, parameters):
        rows = []
        for x, y in zip(X, LABELS, strict=True):
            gradient = torch.autograd.grad(cross_entropy(model(x[None]), y[None]), parameters)
            rows.append(torch.cat([g.reshape(-1) for g in gradient]).numpy())
        return np.array(rows)

    @pytest.mark.parametrize("block_bytes", [1, 2**26])
    def test_per_sample_gradients(self, block_bytes):
        model = mlp(5, 4, 3, seed=2)
        expected = self.by_hand(model, list(model.parameters()))
        rows = per_sample_gradients(model, cross_entropy, ragged(X, LABELS), block_bytes)
        np.testing.assert_allclose(rows, expected, rtol=1e-10, atol=1e-14)

    def test_covariance_against_brute_force(self):
        model = mlp(5, 4, 3, seed=2)
        op = gradient_noise(model, cross_entropy, (X, LABELS))
        expected = np.cov(self.by_hand(model, list(model.parameters())).T, bias=True)
        np.testing.assert_allclose(dense(op), expected, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(op @ np.eye(op.shape[0]), expected, rtol=1e-10, atol=1e-14)

    def test_frozen_parameters_are_left_out(self):
        model = mlp(5, 4, 3, seed=2)
        model[2].weight.requires_grad_(False)
        trained = [p for p in model.parameters() if p.requires_grad]
        expected = np.cov(self.by_hand(model, trained).T, bias=True)
        op = gradient_noise(model, cross_entropy, (X, LABELS))
        np.testing.assert_allclose(dense(op), expected, rtol=1e-10, atol=1e-14)


class TestAlignment:
    h = np.array([8.0, 4.0, 2.0, 1.0, 1e-4, -1.0])
    matrix = symmetric(h)

    def test_a_power_of_the_curvature_is_recovered(self):
        rotation = np.linalg.eigh(self.matrix)[1][:, ::-1]
        noise = np.array([64.0, 16.0, 4.0, 1.0, 3.0, 2.0])  # the square, where the curvature is above the floor
        found = alignment((rotation * noise) @ rotation.T, self.matrix, k=2, floor=1e-2)
        assert found.fitted.tolist() == [True] * 4 + [False] * 2
        np.testing.assert_allclose(found.curvatures, self.h, atol=1e-12)
        np.testing.assert_allclose(found.variances, noise, rtol=1e-10)
        assert (found.exponent, found.correlation) == (pytest.approx(2), pytest.approx(1))
        assert found.cosine == pytest.approx(self.h @ noise / np.sqrt(self.h @ self.h * (noise @ noise)))
        assert found.trace_ratio == pytest.approx(noise.sum() / self.h.sum())
        assert found.top_share == pytest.approx(80 / 90)

    def test_proportional_matrices(self):
        positive = symmetric(np.array([8.0, 4.0, 2.0, 1.0]))
        found = alignment(3 * positive, positive, k=4)
        values = (found.exponent, found.correlation, found.cosine, found.trace_ratio, found.top_share)
        assert values == pytest.approx((1, 1, 1, 3, 1))

    def test_isotropic_noise(self):
        found = alignment(np.eye(6), self.matrix, k=3)
        assert found.exponent == pytest.approx(0, abs=1e-12)
        assert found.cosine == pytest.approx(self.h.sum() / np.sqrt(6 * self.h @ self.h))
        assert found.top_share == pytest.approx(1 / 2)

    def test_operators_are_as_good_as_arrays(self):
        model = mlp(5, 4, 3, seed=2)
        noise, curvature = (f(model, cross_entropy, (X, LABELS)) for f in (gradient_noise, hessian_operator))
        found, expected = alignment(noise, curvature, k=3), alignment(dense(noise), dense(curvature), k=3)
        assert found.exponent == pytest.approx(expected.exponent)
        assert found.cosine == pytest.approx(expected.cosine)

    def test_bad_input(self):
        with pytest.raises(ValueError, match=r"of one size, got \(2, 2\) and \(6, 6\)"):
            alignment(np.eye(2), self.matrix)
        with pytest.raises(ValueError, match="k must be from 1 to the 6 dimensions, got 10"):
            alignment(self.matrix, self.matrix)
        with pytest.raises(ValueError, match="floor must be between 0 and 1, got 1"):
            alignment(self.matrix, self.matrix, k=2, floor=1)
        with pytest.raises(ValueError, match="curvature must have two positive eigenvalues above the floor"):
            alignment(np.eye(6), -np.eye(6), k=2)
