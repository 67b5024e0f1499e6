// From a camera's picture to YuNet's input: upright parts of it, made smaller.
//
// Twin of the CPU back end's shrink.rs, bit for bit: the host works out the weights along both axes once for a size of
// picture; sums are whole numbers, so their order does not matter.

/// Which pixels along one axis make an input pixel.
struct ShrinkAxis {
    /// For each of `len` input pixels the first of `taps` picture pixels.
    const u32 *first;
    /// For each of `len` input pixels `taps` weights, whose sum is 256.
    const u16 *weights;
    /// Picture pixels for each input pixel.
    u32 taps;
    /// Input pixels that show the picture, at most the input's side; the others are black.
    u32 len;
};
static_assert(sizeof(ShrinkAxis) == 24, "packed as in Rust");

/// One view of a picture.
struct ShrinkTile {
    ShrinkAxis columns;
    ShrinkAxis rows;
    /// Index in the table of frames, or `NO_FRAME`: all black.
    u32 frame;
    u32 reserved;
};
static_assert(sizeof(ShrinkTile) == 56, "packed as in Rust");

/// This thread's pixels of one tile's input.
template <u32 READER>
static __device__ void shrink_tile(const Frame &frame, const ShrinkTile &tile, u32 width, u32 height, float *out) {
    const u32 plane = width * height, taps = tile.columns.taps;
    const u32 shown = tile.frame == NO_FRAME ? 0 : tile.columns.len;
    for (u32 v = blockIdx.y; v < height; v += gridDim.y) {
        const bool row_is_shown = v < tile.rows.len;
        const u32 y0 = row_is_shown ? tile.rows.first[v] : 0;
        const u16 *down = tile.rows.weights + v * tile.rows.taps;
        for (u32 u = blockIdx.x * blockDim.x + threadIdx.x; u < width; u += gridDim.x * blockDim.x) {
            u32 red = 0, green = 0, blue = 0;
            if (row_is_shown && u < shown) {
                const u32 x0 = tile.columns.first[u];
                const u16 *across = tile.columns.weights + u * taps;
                for (u32 j = 0; j < tile.rows.taps; ++j) {
                    u32 row_red = 0, row_green = 0, row_blue = 0;
                    for (u32 i = 0; i < taps; ++i) {
                        const u32 pixel = read_rgb<READER>(frame, x0 + i, y0 + j), weight = across[i];
                        row_red += (pixel & 0xff) * weight;
                        row_green += (pixel >> 8 & 0xff) * weight;
                        row_blue += (pixel >> 16) * weight;
                    }
                    const u32 weight = down[j];
                    red += row_red * weight;
                    green += row_green * weight;
                    blue += row_blue * weight;
                }
            }
            // The sums are below 2^24, so that float holds them exactly.
            float *to = out + v * width + u;
            to[0] = (float)blue * (1.0f / 65536.0f);
            to[plane] = (float)green * (1.0f / 65536.0f);
            to[2 * plane] = (float)red * (1.0f / 65536.0f);
        }
    }
}

/// YuNet's input: `count` tiles, each three planes (blue, green, red) of `width` × `height`, 0 to 255.
/// The table of frames has at least one.
/// Grid: x and threads along a line, y lines, z tiles.
extern "C" __global__ void shrink(const Frame *__restrict__ frames, const ShrinkTile *__restrict__ tiles, u32 count,
                                  u32 width, u32 height, float *__restrict__ out) {
    for (u32 at = blockIdx.z; at < count; at += gridDim.z) {
        const ShrinkTile tile = tiles[at];
        const Frame frame = frames[tile.frame == NO_FRAME ? 0 : tile.frame];
        WITH_READER(frame, shrink_tile, frame, tile, width, height, out + (u64)at * 3 * width * height)
    }
}
