// From the detectors' outputs to faces: decoding into candidates, and suppression.
//
// Twin of yunet.rs, blazeface.rs and nms.rs in the models crate. Candidates of a frame are appended to its list in any order;
// suppression puts them in the CPU back end's order first, so that what is found depends on the picture alone.

/// One detected face.
struct Detection {
    /// 0 to 1.
    float score;
    /// Picture pixels; finite and with an area. May reach beyond the picture.
    Box2 box;
    /// x, y in picture pixels; YuNet's sixth is 0. All finite.
    float keypoints[6][2];
    /// Its place in the network's outputs, tile by tile: of candidates that are otherwise alike, the first wins.
    u32 place;
};
static_assert(sizeof(Detection) == 72, "packed as in Rust");

/// What is found in one frame.
struct Detections {
    /// How many of `items` count.
    u32 stored;
    /// Faces found; more than `stored` if there are more than MAX_DETECTIONS.
    u32 found;
    /// Candidates before suppression; those beyond MAX_CANDIDATES were left out, whichever they were.
    u32 candidates;
    u32 reserved;
    /// Best first.
    Detection items[MAX_DETECTIONS];
};
static_assert(sizeof(Detections) == 16 + 72 * MAX_DETECTIONS, "packed as in Rust");

/// The candidates of all frames of a batch.
struct Candidates {
    /// For each frame how many there are, also those that found no room. 0 before decoding; `suppress` leaves 0.
    u32 *counts;
    /// MAX_CANDIDATES for each frame.
    Detection *items;
};
static_assert(sizeof(Candidates) == 16, "packed as in Rust");

/// Appends a candidate whose box and keypoints are usable.
static __device__ void append(const Candidates &to, u32 frame, const Detection &candidate) {
    bool sound = is_sound(candidate.box);
    for (int k = 0; k < 6; ++k) {
        sound = sound && is_finite(candidate.keypoints[k][0]) && is_finite(candidate.keypoints[k][1]);
    }
    if (sound) {
        const u32 at = atomicAdd(&to.counts[frame], 1u);
        if (at < MAX_CANDIDATES) {
            to.items[(u64)frame * MAX_CANDIDATES + at] = candidate;
        }
    }
}

/// How one tile of a plan lies in its picture.
struct DetectorTile {
    /// The part that is seen, measured between pixel edges.
    Box2 source;
    /// Width and height in input pixels that the part is resized to.
    u32 content[2];
    /// Whether left (bit 0), upper (1), right (2) and lower (3) edge are cuts through the picture.
    u32 cut;
    /// Index of the frame's list of candidates, or `NO_FRAME`.
    u32 frame;
    /// Which of the frame's tiles it is.
    u32 index;
};
static_assert(sizeof(DetectorTile) == 36, "packed as in Rust");

/// YuNet's outputs for a batch of tiles; each by the strides 8, 16, 32, and of these a row for each cell of each tile.
struct YunetOutputs {
    /// 1 probability a cell.
    const float *class_of[3];
    /// 1 probability a cell.
    const float *object[3];
    /// 4 numbers a cell: shift of the centre in cells, logarithm of the size in cells.
    const float *bbox[3];
    /// 10 numbers a cell: shift of five points in cells.
    const float *keypoints[3];
};
static_assert(sizeof(YunetOutputs) == 96, "packed as in Rust");

/// Input pixels from a tile's cut within which a box is taken for a part of a face.
#define CUT_MARGIN 2.0f

static __device__ bool reaches_cut(const DetectorTile &tile, const Box2 &box) {
    const float width = (float)tile.content[0], height = (float)tile.content[1];
    return ((tile.cut & 1) && box.x0 < CUT_MARGIN) || ((tile.cut & 2) && box.y0 < CUT_MARGIN)
        || ((tile.cut & 4) && box.x1 > width - CUT_MARGIN) || ((tile.cut & 8) && box.y1 > height - CUT_MARGIN);
}

/// Decodes one cell, whose score reached the threshold.
static __device__ void decode_yunet_cell(const DetectorTile &tile, float column, float row, float stride, const float *bbox,
                                         const float *keypoints, float score, u32 place, const Candidates &out) {
    const float cx = (column + bbox[0]) * stride, cy = (row + bbox[1]) * stride;
    // In double, so that all of the machines round to the same float, nearly always.
    const float width = (float)exp((double)bbox[2]) * stride, height = (float)exp((double)bbox[3]) * stride;
    const Box2 box = box_from_center(cx, cy, width, height);
    const bool inside = cx < (float)tile.content[0] && cy < (float)tile.content[1];
    if (!inside || reaches_cut(tile, box)) {
        return;
    }
    const float sx = (tile.source.x1 - tile.source.x0) / (float)tile.content[0];
    const float sy = (tile.source.y1 - tile.source.y0) / (float)tile.content[1];
    const float left = tile.source.x0 - 0.5f, top = tile.source.y0 - 0.5f;
    Detection found = {};
    found.score = fminf(score, 1.0f);
    found.box = {left + (box.x0 + 0.5f) * sx, top + (box.y0 + 0.5f) * sy, left + (box.x1 + 0.5f) * sx,
                 top + (box.y1 + 0.5f) * sy};
    for (int k = 0; k < 5; ++k) {
        found.keypoints[k][0] = left + ((column + keypoints[2 * k]) * stride + 0.5f) * sx;
        found.keypoints[k][1] = top + ((row + keypoints[2 * k + 1]) * stride + 0.5f) * sy;
    }
    found.place = place;
    append(out, tile.frame, found);
}

/// Appends what the network sees in `count` tiles of `input_width` × `input_height` input pixels (multiples of 32).
/// Grid: x and threads over the cells of one tile, z tiles.
extern "C" __global__ void decode_yunet(YunetOutputs outputs, const DetectorTile *__restrict__ tiles, u32 count,
                                        u32 input_width, u32 input_height, float score_threshold, Candidates out) {
    const u32 cells_8 = (input_width / 8) * (input_height / 8);
    const u32 cells = cells_8 + cells_8 / 4 + cells_8 / 16;
    for (u32 at = blockIdx.z; at < count; at += gridDim.z) {
        const DetectorTile tile = tiles[at];
        if (tile.frame == NO_FRAME) {
            continue;
        }
        for (u32 i = layer_index(); i < cells; i += layer_size()) {
            const u32 level = i < cells_8 ? 0 : i < cells_8 + cells_8 / 4 ? 1 : 2;
            const u32 before = level == 0 ? 0 : level == 1 ? cells_8 : cells_8 + cells_8 / 4;
            const u32 cell = i - before, stride = 8u << level;
            const u64 row = (u64)at * (cells_8 >> 2 * level) + cell;
            const float *class_of = level == 0 ? outputs.class_of[0] : level == 1 ? outputs.class_of[1] : outputs.class_of[2];
            const float *object = level == 0 ? outputs.object[0] : level == 1 ? outputs.object[1] : outputs.object[2];
            const float score = sqrtf(class_of[row] * object[row]);
            // Written so that NaN is left out.
            if (score >= score_threshold) {
                const float *bbox = level == 0 ? outputs.bbox[0] : level == 1 ? outputs.bbox[1] : outputs.bbox[2];
                const float *points =
                    level == 0 ? outputs.keypoints[0] : level == 1 ? outputs.keypoints[1] : outputs.keypoints[2];
                const u32 columns = input_width / stride;
                decode_yunet_cell(tile, (float)(cell % columns), (float)(cell / columns), (float)stride, bbox + row * 4,
                                  points + row * 10, score, tile.index * cells + i, out);
            }
        }
    }
}

/// Appends what the network sees in `count` pictures, the first `count` of the table of frames and of the candidates.
/// `regressors` holds 16 numbers and `scores` one logit for each of `anchor_count` anchors of each picture; `anchors` their
/// centres, x and y, in fractions of the input, whose side is `size`. Grid: x and threads over anchors, z pictures.
extern "C" __global__ void decode_blazeface(const float *__restrict__ regressors, const float *__restrict__ scores,
                                            const float *__restrict__ anchors, u32 anchor_count,
                                            const Frame *__restrict__ frames, u32 count, u32 size, float score_threshold,
                                            Candidates out) {
    const float scale = 1.0f / (float)size;
    for (u32 frame = blockIdx.z; frame < count; frame += gridDim.z) {
        const Letterbox box = letterbox_of(frames[frame]);
        for (u32 i = layer_index(); i < anchor_count; i += layer_size()) {
            const u64 row = (u64)frame * anchor_count + i;
            const float score = sigmoid(scores[row]);
            // Written so that NaN is left out.
            if (score >= score_threshold) {
                const float *r = regressors + row * 16;
                const float ax = anchors[2 * i], ay = anchors[2 * i + 1];
                Detection found = {};
                found.score = score;
                found.box = box_from_center((r[0] * scale + ax) * box.side + box.x0, (r[1] * scale + ay) * box.side + box.y0,
                                            r[2] * scale * box.side, r[3] * scale * box.side);
                for (int k = 0; k < 6; ++k) {
                    found.keypoints[k][0] = (r[4 + 2 * k] * scale + ax) * box.side + box.x0;
                    found.keypoints[k][1] = (r[5 + 2 * k] * scale + ay) * box.side + box.y0;
                }
                found.place = i;
                append(out, frame, found);
            }
        }
    }
}

/// Intersection over union, 0 to 1, of two sound boxes.
static __device__ float overlap(const Box2 &a, const Box2 &b) {
    const float width = fminf(a.x1, b.x1) - fmaxf(a.x0, b.x0), height = fminf(a.y1, b.y1) - fmaxf(a.y0, b.y0);
    const float shared = fmaxf(width, 0.0f) * fmaxf(height, 0.0f);
    const float all = (a.x1 - a.x0) * (a.y1 - a.y0) + (b.x1 - b.x0) * (b.y1 - b.y0) - shared;
    return all > 0.0f && is_finite(all) ? fminf(shared / all, 1.0f) : 0.0f;
}

/// Numbers of a detection that a group's mean is taken of: box and keypoints, which lie side by side.
#define MEAN_VALUES 16u

static __device__ const float *values_of(const Detection &detection) { return (const float *)&detection + 1; }

/// What candidates are put in order by.
struct SortKey {
    float score, x0, y0;
    u32 place;
};

/// By score, then left, then upper edge, the greater first; what is left is alike, and the earlier comes first.
static __device__ bool is_before(const SortKey &a, const SortKey &b) {
    return a.score != b.score ? a.score > b.score : a.x0 != b.x0 ? a.x0 > b.x0 : a.y0 != b.y0 ? a.y0 > b.y0 : a.place < b.place;
}

/// Leaves the best of each group whose members overlap it by more than `iou_threshold`, best first. With `weighted`
/// (BlazeFace) its box and keypoints become the group's mean, weighted by score; else (YuNet) it stays as it is.
/// Grid: x over `count` frames.
extern "C" __global__ void suppress(Candidates candidates, u32 count, u32 weighted, float iou_threshold,
                                    Detections *__restrict__ out) {
    const u16 free = 0xffff;
    __shared__ SortKey keys[MAX_CANDIDATES];
    // From here on candidates go from best to worst: where they are in the list, their boxes, which one swallowed them.
    __shared__ u16 order[MAX_CANDIDATES];
    __shared__ Box2 boxes[MAX_CANDIDATES];
    __shared__ u16 swallowed_by[MAX_CANDIDATES];
    __shared__ u16 kept[MAX_DETECTIONS];
    for (u32 frame = block_index(); frame < count; frame += block_count()) {
        const Detection *items = candidates.items + (u64)frame * MAX_CANDIDATES;
        const u32 all = candidates.counts[frame], n = all < MAX_CANDIDATES ? all : MAX_CANDIDATES;
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
            keys[i] = {items[i].score, items[i].box.x0, items[i].box.y0, items[i].place};
            swallowed_by[i] = free;
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
            const SortKey key = keys[i];
            u32 rank = 0;
            for (u32 j = 0; j < n; ++j) {
                rank += is_before(keys[j], key);
            }
            order[rank] = (u16)i;
            boxes[rank] = items[i].box;
        }
        __syncthreads();
        u32 found = 0;
        for (u32 best = 0; best < n; ++best) {
            // All threads read the same here: the others write behind the next free one only, until all have met.
            if (swallowed_by[best] != free) {
                continue;
            }
            const Box2 box = boxes[best];
            for (u32 j = best + 1 + threadIdx.x; j < n; j += blockDim.x) {
                if (swallowed_by[j] == free && overlap(box, boxes[j]) > iou_threshold) {
                    swallowed_by[j] = (u16)best;
                }
            }
            if (threadIdx.x == 0 && found < MAX_DETECTIONS) {
                kept[found] = (u16)best;
            }
            ++found;
            __syncthreads();
        }
        Detections &to = out[frame];
        const u32 stored = found < MAX_DETECTIONS ? found : MAX_DETECTIONS;
        for (u32 i = threadIdx.x; i < stored * MEAN_VALUES; i += blockDim.x) {
            const u32 best = kept[i / MEAN_VALUES], k = i % MEAN_VALUES;
            const Detection &from = items[order[best]];
            float value = values_of(from)[k];
            if (weighted) {
                double weight = (double)from.score, sum = weight * (double)value;
                for (u32 j = best + 1; j < n; ++j) {
                    if (swallowed_by[j] == best) {
                        const Detection &member = items[order[j]];
                        weight += (double)member.score;
                        sum += (double)member.score * (double)values_of(member)[k];
                    }
                }
                value = weight > 0.0 ? (float)(sum / weight) : value;
            }
            ((float *)&to.items[i / MEAN_VALUES])[1 + k] = value;
        }
        for (u32 i = threadIdx.x; i < stored; i += blockDim.x) {
            const Detection &from = items[order[kept[i]]];
            to.items[i].score = from.score;
            to.items[i].place = from.place;
        }
        if (threadIdx.x == 0) {
            to.stored = stored;
            to.found = found;
            to.candidates = all;
            to.reserved = 0;
        }
        // Everybody has read the count, and what is shared is free for the next frame.
        __syncthreads();
        if (threadIdx.x == 0) {
            candidates.counts[frame] = 0;
        }
    }
}
