/* What the simulated libk4a, libk4arecord and libk4abt share. Only the binary interface is Microsoft's. */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SUCCEEDED = 0, FAILED = 1, TOO_SMALL = 2, TIMEOUT = 2, END_OF_FILE = 2 };
enum { COLOUR = 1, DEPTH = 2 }; /* parts of a capture */
enum { DEPTH16 = 4, JOINTS = 32 };
typedef enum { DEVICE, CAPTURE, IMAGE, TRANSFORMATION, PLAYBACK, TRACKER, BODY_FRAME, KINDS } kind_t;

typedef struct { float rotation[9], translation[3]; } extrinsics_t;
typedef struct { float cx, cy, fx, fy, k1, k2, k3, k4, k5, k6, codx, cody, p2, p1, metric_radius; } lens_t;
typedef struct {
    extrinsics_t extrinsics;
    int type;
    unsigned count;
    lens_t lens;
    int width, height;
    float metric_radius;
} camera_t;
typedef struct {
    camera_t depth, colour;
    extrinsics_t extrinsics[4][4]; /* [source][target] */
    int depth_mode, colour_resolution;
} calibration_t;

typedef struct { float position[3], orientation[4]; int confidence; } joint_t;
typedef struct { joint_t joints[JOINTS]; } skeleton_t;
typedef struct { uint32_t id; skeleton_t skeleton; } body_t;

/* A file of the tests: what a device films, and what stands for an mkv. */
typedef struct {
    uint64_t colour_us, depth_us;
    int32_t parts, colour_bytes, bodies;
    uint8_t *colour;
    uint16_t *depth;
    body_t *people;
} frame_t;
typedef struct {
    char serial[32];
    calibration_t calibration;
    int32_t colour_format, rate, tracks, frames, truncated;
    frame_t *frame;
} scene_t;

/* Every handle begins so. Its memory stays for ever, that what is done with it too late is noticed. */
typedef struct { kind_t kind; atomic_int references; } object_t;
typedef struct image {
    object_t object;
    int format, width, height, stride;
    size_t size;
    uint8_t *buffer;
    uint64_t device_us, received_ns;
} image_t;
typedef struct { object_t object; image_t *colour, *depth; const frame_t *frame; } capture_t;

void *fake_new(kind_t kind, size_t size);
bool fake_check(const void *handle, kind_t kind); /* counts a fault where the handle is none */
bool fake_drop(void *handle, kind_t kind);        /* true where that was the last reference */
void fake_fault(const char *what);
void fake_say(const char *message); /* to the debug message handler */
scene_t *fake_scene(const char *path);
capture_t *fake_capture(const scene_t *scene, const frame_t *frame, uint64_t colour_us, uint64_t depth_us, int parts,
                        uint64_t received_ns);
void k4a_capture_reference(capture_t *capture);
void k4a_capture_release(capture_t *capture);
bool fake_wait(pthread_cond_t *changed, pthread_mutex_t *lock, const struct timespec *until);
struct timespec fake_until(int milliseconds);
