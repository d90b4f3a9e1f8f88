"""A GPU that cannot compute is told with the reason, instead of ending the look at this machine."""

from tasks.doctor.checks import gpu_found


def test_a_gpu_that_computes_nothing_is_a_fault_with_what_to_do() -> None:
    found = gpu_found(99)  # there is none, on any machine
    assert found.state == "fault"
    assert found.found.startswith("cuda:99: ")
    assert "CUDA_VISIBLE_DEVICES" in found.fix
