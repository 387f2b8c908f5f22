/* Handles and their counting, images, captures, and the files that the tests write. */
#include "fake.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static atomic_long live[KINDS], made[KINDS], faults;
typedef void handler_t(void *context, int level, const char *file, int line, const char *message);
static handler_t *handler;

long fake_live(int kind) { return live[kind]; }
long fake_made(int kind) { return made[kind]; }
long fake_faults(void) { return faults; }

void fake_fault(const char *what) {
    faults++;
    fprintf(stderr, "simulated k4a: %s\n", what);
}

void fake_say(const char *message) {
    if (handler)
        handler(NULL, 1, "fake.c", 1, message);
}

int k4a_set_debug_message_handler(handler_t *wanted, void *context, int level) {
    (void)context, (void)level;
    if (wanted && handler)
        return FAILED;
    handler = wanted;
    return SUCCEEDED;
}

void *fake_new(kind_t kind, size_t size) {
    object_t *object = calloc(1, size);
    object->kind = kind;
    object->references = 1;
    live[kind]++;
    made[kind]++;
    return object;
}

bool fake_check(const void *handle, kind_t kind) {
    const object_t *object = handle;
    if (object && object->kind == kind && object->references > 0)
        return true;
    fake_fault(object ? "a handle is used after its release, or is of another kind" : "a handle is NULL");
    return false;
}

bool fake_drop(void *handle, kind_t kind) {
    if (!fake_check(handle, kind) || --((object_t *)handle)->references > 0)
        return false;
    live[kind]--;
    return true;
}

struct timespec fake_until(int milliseconds) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += milliseconds / 1000;
    time.tv_nsec += milliseconds % 1000 * 1000000L;
    if (time.tv_nsec >= 1000000000L)
        time.tv_sec++, time.tv_nsec -= 1000000000L;
    return time;
}

bool fake_wait(pthread_cond_t *changed, pthread_mutex_t *lock, const struct timespec *until) {
    return pthread_cond_clockwait(changed, lock, CLOCK_MONOTONIC, until) == 0;
}

/* -- images -- */

int k4a_image_create(int format, int width, int height, int stride, image_t **out) {
    image_t *image = *out = fake_new(IMAGE, sizeof *image);
    image->format = format, image->width = width, image->height = height, image->stride = stride;
    image->size = (size_t)stride * height;
    image->buffer = malloc(image->size);
    memset(image->buffer, 0xAB, image->size); /* as fresh memory: whoever does not write all of it shows */
    return SUCCEEDED;
}

void k4a_image_release(image_t *image) {
    if (fake_drop(image, IMAGE)) {
        memset(image->buffer, 0xCD, image->size);
        free(image->buffer);
    }
}

#define GETTER(type, name, field)                                                                                      \
    type k4a_image_get_##name(image_t *image) { return fake_check(image, IMAGE) ? image->field : 0; }
GETTER(uint8_t *, buffer, buffer)
GETTER(size_t, size, size)
GETTER(int, format, format)
GETTER(int, width_pixels, width)
GETTER(int, height_pixels, height)
GETTER(int, stride_bytes, stride)
GETTER(uint64_t, device_timestamp_usec, device_us)
GETTER(uint64_t, system_timestamp_nsec, received_ns)

/* -- captures -- */

static image_t *filled(int format, int width, int height, int stride, const void *data, size_t size) {
    image_t *image;
    k4a_image_create(format, width, height, stride, &image);
    image->buffer = realloc(image->buffer, size);
    image->size = size;
    memcpy(image->buffer, data, size);
    return image;
}

capture_t *fake_capture(const scene_t *scene, const frame_t *frame, uint64_t colour_us, uint64_t depth_us, int parts,
                        uint64_t received_ns) {
    const camera_t *colour = &scene->calibration.colour, *depth = &scene->calibration.depth;
    capture_t *capture = fake_new(CAPTURE, sizeof *capture);
    capture->frame = frame;
    if (parts & frame->parts & COLOUR) {
        int stride = scene->colour_format == 3 ? 4 * colour->width : 0;
        capture->colour = filled(scene->colour_format, colour->width, colour->height, stride, frame->colour,
                                 frame->colour_bytes);
        capture->colour->device_us = colour_us, capture->colour->received_ns = received_ns;
    }
    if (parts & frame->parts & DEPTH) {
        capture->depth = filled(DEPTH16, depth->width, depth->height, 2 * depth->width, frame->depth,
                                (size_t)2 * depth->width * depth->height);
        capture->depth->device_us = depth_us, capture->depth->received_ns = received_ns;
    }
    return capture;
}

void k4a_capture_reference(capture_t *capture) {
    if (fake_check(capture, CAPTURE))
        capture->object.references++;
}

void k4a_capture_release(capture_t *capture) {
    if (!fake_drop(capture, CAPTURE))
        return;
    if (capture->colour)
        k4a_image_release(capture->colour);
    if (capture->depth)
        k4a_image_release(capture->depth);
}

static image_t *referenced(image_t *image) {
    if (image)
        image->object.references++;
    return image;
}

image_t *k4a_capture_get_color_image(capture_t *capture) {
    return fake_check(capture, CAPTURE) ? referenced(capture->colour) : NULL;
}

image_t *k4a_capture_get_depth_image(capture_t *capture) {
    return fake_check(capture, CAPTURE) ? referenced(capture->depth) : NULL;
}

/* -- files -- */

static void *block(FILE *file, size_t size, int32_t *truncated) {
    void *data = malloc(size + 1);
    *truncated |= fread(data, 1, size, file) != size;
    return data;
}

static bool read_frame(FILE *file, const calibration_t *calibration, frame_t *frame) {
    int32_t bad = 0;
    bad |= fread(&frame->colour_us, sizeof(uint64_t), 2, file) != 2;
    bad |= fread(&frame->parts, sizeof(int32_t), 3, file) != 3;
    if (bad)
        return false;
    frame->colour = block(file, frame->colour_bytes, &bad);
    frame->depth = block(file, (size_t)2 * calibration->depth.width * calibration->depth.height, &bad);
    frame->people = block(file, frame->bodies * sizeof(body_t), &bad);
    return !bad;
}

scene_t *fake_scene(const char *path) {
    FILE *file = fopen(path, "rb");
    char magic[8] = "";
    scene_t *scene = calloc(1, sizeof *scene);
    bool good = file && fread(magic, 1, 8, file) == 8 && !memcmp(magic, "FAKEK4A1", 8) &&
                fread(scene->serial, 32, 1, file) == 1 &&
                fread(&scene->calibration, sizeof(calibration_t), 1, file) == 1 &&
                fread(&scene->colour_format, sizeof(int32_t), 4, file) == 4;
    if (good) {
        scene->frame = calloc(scene->frames, sizeof(frame_t));
        for (int i = 0; i < scene->frames; i++)
            if (!read_frame(file, &scene->calibration, &scene->frame[i])) {
                scene->truncated = 1;
                scene->frames = i;
            }
    }
    if (file)
        fclose(file);
    return good ? scene : NULL;
}
