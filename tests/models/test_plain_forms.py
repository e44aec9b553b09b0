"""The plain forms that benchmarks compare with are the same networks."""

import pytest
import torch
from tiny_networks import NETWORKS, sample, tiny

from benchmarks.plain import plain_form

SUPPORTED = [name for name in NETWORKS if name not in ("motionformer_divided", "motionformer_epic")]


@pytest.mark.parametrize("name", SUPPORTED)
def test_logits_and_gradients_are_those_of_our_networks(name):
    ours = tiny(name).double()
    plain = plain_form(ours)
    clip = sample(name).double()
    logits, expected = plain(clip), ours(clip)
    assert logits.std(0).max() > 1e-5
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    (logits**2).sum().backward()
    (expected**2).sum().backward()
    for key, own in ours.named_parameters():
        if own.grad is not None:
            gradient = plain.get_parameter(key).grad
            torch.testing.assert_close(gradient, own.grad, rtol=1e-6, atol=1e-6, msg=lambda text, k=key: f"{k}: {text}")


def test_a_stream_goes_on_in_the_plain_form_too():
    ours = tiny("movinet_stream").double()
    plain = plain_form(ours)
    clip = sample("movinet_stream").double()
    state = ours.stream_state(len(clip))
    for frame in clip.split(1, dim=2):
        expected, state = ours.stream(frame, state)
        torch.testing.assert_close(plain(frame), expected, rtol=0, atol=1e-10)
    plain.clean_activation_buffers()
    torch.testing.assert_close(plain(clip), expected, rtol=0, atol=1e-10)


def test_a_network_without_a_plain_form_is_named():
    with pytest.raises(ValueError, match="trajectory attention"):
        plain_form(tiny("motionformer_divided"))
