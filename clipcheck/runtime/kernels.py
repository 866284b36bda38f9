"""The Triton kernels of the clip: sums over chunks of gradients, the norm of these sums, the scaling of the chunks.

A chunk is `tensor_of[i], start_of[i]`: a gradient, and its first element in it. A gradient is `addresses[t], sizes[t]`.
"""

# Triton is not quite Python: constants are uppercase, types are values, and conditions on constants are compiled away.
# ruff: noqa: N803, N806, RET505, SIM102, SIM108, SIM300
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _magnitude(x, ORDER: tl.constexpr):
    """|x|^p in float64; for the inf norm the bits of |x| as an integer, which sort like |x| with NaN on top."""
    if ORDER == 2:
        x = x.to(tl.float64)
        return x * x
    elif ORDER == 1:
        return tl.abs(x.to(tl.float64))
    else:
        return tl.abs(x.to(tl.float64)).to(tl.int64, bitcast=True)


@triton.jit
def _join(a, b, ORDER: tl.constexpr):
    return a + b if ORDER != 0 else tl.maximum(a, b)


@triton.jit
def _reduce(x, ORDER: tl.constexpr):
    return tl.sum(x) if ORDER != 0 else tl.max(x)


@triton.jit
def _partial(
    addresses, sizes, tensor_of, start_of, chunks,
    DTYPE: tl.constexpr, ORDER: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sum of |x|^ORDER over this program's chunks, or the bits of the maximum (ORDER 0), as a float64."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64 if ORDER != 0 else tl.int64)
    for chunk in range(tl.program_id(0), chunks, tl.num_programs(0)):
        tensor = tl.load(tensor_of + chunk)
        start = tl.load(start_of + chunk)
        size = tl.load(sizes + tensor)
        address = tl.load(addresses + tensor)
        if (address % 16 == 0) & (start + CHUNK <= size):
            base = tl.multiple_of(address, 16).to(tl.pointer_type(DTYPE), bitcast=True) + tl.multiple_of(start, 16)
            for block in tl.static_range(CHUNK // BLOCK):
                x = tl.load(base + (block * BLOCK + lane))
                total = _join(total, _magnitude(x, ORDER), ORDER)
        else:
            base = address.to(tl.pointer_type(DTYPE), bitcast=True) + start
            left = tl.minimum(size - start, CHUNK).to(tl.int32)
            for offset in range(0, left, BLOCK):
                x = tl.load(base + (offset + lane), mask=offset + lane < left, other=0.0)
                total = _join(total, _magnitude(x, ORDER), ORDER)
    partial = _reduce(total, ORDER)
    return partial if ORDER != 0 else partial.to(tl.float64, bitcast=True)


@triton.jit
def _norm(partials, count, ORDER: tl.constexpr, PARTIALS: tl.constexpr):
    """The norm from `count` partial sums, added in an order that depends on nothing but `count`."""
    index = tl.arange(0, PARTIALS)
    each = tl.load(partials + index, mask=index < count, other=0.0, cache_modifier=".cg")
    if ORDER == 2:
        norm = tl.sqrt(tl.sum(each))
    elif ORDER == 1:
        norm = tl.sum(each)
    else:
        norm = tl.max(each.to(tl.int64, bitcast=True)).to(tl.float64, bitcast=True)
    return norm


@triton.jit(do_not_specialize=["chunks", "first"])
def sum_kernel(
    addresses, sizes, tensor_of, start_of, partials, chunks, first,
    DTYPE: tl.constexpr, ORDER: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes one partial sum per program, starting at index `first`."""
    partial = _partial(addresses, sizes, tensor_of, start_of, chunks, DTYPE, ORDER, CHUNK, BLOCK)
    tl.store(partials + first + tl.program_id(0), partial)


@triton.jit
def join_kernel(partials, ends, sums, ORDER: tl.constexpr, PARTIALS: tl.constexpr):
    """Writes the sum of each section's partial sums, one program per section; for ORDER 0, the bits of the maximum."""
    section = tl.program_id(0)
    index = tl.load(ends + section) + tl.arange(0, PARTIALS)
    each = tl.load(partials + index, mask=index < tl.load(ends + section + 1), other=0.0, cache_modifier=".cg")
    if ORDER != 0:
        joined = tl.sum(each)
    else:
        joined = tl.max(each.to(tl.int64, bitcast=True)).to(tl.float64, bitcast=True)
    tl.store(sums + section, joined)


@triton.jit(do_not_specialize=["chunks", "first", "count"])
def norm_kernel(
    addresses, sizes, tensor_of, start_of, partials, chunks, first, count, arrived, norm_out,
    DTYPE: tl.constexpr, ORDER: tl.constexpr, PARTIALS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Like `sum_kernel`; in addition, the last of all `count` programs to finish writes the norm.

    It does not matter which one that is: it adds up all partial sums in a fixed order. It resets `arrived` to 0.
    """
    partial = _partial(addresses, sizes, tensor_of, start_of, chunks, DTYPE, ORDER, CHUNK, BLOCK)
    tl.store(partials + first + tl.program_id(0), partial)
    tl.debug_barrier()
    if tl.atomic_add(arrived, 1, sem="acq_rel") == count - 1:
        tl.debug_barrier()
        tl.store(norm_out, _norm(partials, count, ORDER, PARTIALS).to(norm_out.dtype.element_ty))
        tl.store(arrived, 0)


@triton.jit(do_not_specialize=["chunks", "count"])
def scale_kernel(
    addresses, sizes, tensor_of, start_of, chunks, partials, norm_out, max_norm, max_norm_rest, count,
    DTYPE: tl.constexpr, ORDER: tl.constexpr, PARTIALS: tl.constexpr, WRITES_NORM: tl.constexpr,
    SKIPS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Computes the norm from `count` partial sums and multiplies the chunks by `min(1, max_norm / (norm + 1e-6))`.

    If SKIPS, a norm of NaN or infinity zeroes them instead.
    """
    norm = _norm(partials, count, ORDER, PARTIALS)
    if WRITES_NORM:
        if tl.program_id(0) == 0:
            tl.store(norm_out, norm.to(norm_out.dtype.element_ty))
    coefficient = max_norm / (norm + 1e-6) + max_norm_rest / (norm + 1e-6)  # in float64
    clips = (coefficient < 1.0) | (coefficient != coefficient)
    if clips:  # noqa: PLR1702 - Triton has no `continue`
        lane = tl.arange(0, BLOCK)
        WIDE: tl.constexpr = tl.float64 if DTYPE == tl.float64 else tl.float32
        factor = coefficient.to(WIDE)
        is_bad = (norm != norm) | (norm == float("inf"))
        for step in range(tl.program_id(0), chunks, tl.num_programs(0)):
            chunk = chunks - 1 - step
            tensor = tl.load(tensor_of + chunk)
            start = tl.load(start_of + chunk)
            size = tl.load(sizes + tensor)
            address = tl.load(addresses + tensor)
            if (address % 16 == 0) & (start + CHUNK <= size):
                base = tl.multiple_of(address, 16).to(tl.pointer_type(DTYPE), bitcast=True) + tl.multiple_of(start, 16)
                for block in tl.static_range(CHUNK // BLOCK):
                    at = base + (block * BLOCK + lane)
                    x = tl.load(at).to(WIDE) * factor
                    if SKIPS:
                        x = tl.where(is_bad, 0.0, x)
                    tl.store(at, x.to(DTYPE))
            else:
                base = address.to(tl.pointer_type(DTYPE), bitcast=True) + start
                left = tl.minimum(size - start, CHUNK).to(tl.int32)
                for offset in range(0, left, BLOCK):
                    at = base + (offset + lane)
                    inside = offset + lane < left
                    x = tl.load(at, mask=inside, other=0.0).to(WIDE) * factor
                    if SKIPS:
                        x = tl.where(is_bad, 0.0, x)
                    tl.store(at, x.to(DTYPE), mask=inside)
