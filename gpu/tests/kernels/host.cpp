// The kernels as a shared library for tests, each under the name `launch_<kernel>`, and a kernel that reads pixels.

#include "host.h"

#include "types.cu"
#include "colour.cu"
#include "crop.cu"
#include "shrink.cu"
#include "detect.cu"
#include "faces.cu"

template <u32 READER> static void read_lines(const Frame &frame, u8 *out) {
    for (u32 y = 0; y < frame.height; ++y) {
        for (u32 x = 0; x < frame.width; ++x, out += 3) {
            const u32 rgb = read_rgb<READER>(frame, x, y);
            out[0] = rgb & 0xff, out[1] = rgb >> 8 & 0xff, out[2] = rgb >> 16;
        }
    }
}

/// All pixels of a frame as RGB24 without padding.
extern "C" void read_frame(const Frame *frame, u8 *out) { WITH_READER((*frame), read_lines, *frame, out) }

/// The map by which a region is cropped.
extern "C" void map_of_roi(const Roi *roi, Affine2 *out) { *out = image_from_crop(*roi, CROP); }

#define EXPORT(KERNEL)                                                                                                 \
    extern "C" void launch_##KERNEL(const u32 *grid, const u32 *block, void **arguments) {                             \
        launch(KERNEL, grid, block, arguments);                                                                        \
    }

EXPORT(crop_faces)
EXPORT(letterbox)
EXPORT(shrink)
EXPORT(decode_yunet)
EXPORT(decode_blazeface)
EXPORT(suppress)
EXPORT(faces)
EXPORT(sharpness)
