/* Simulated libk4arecord: plays a file of the tests. */
#include "fake.h"
#include <string.h>

typedef struct { object_t object; scene_t *scene; int next; } playback_t;
typedef struct {
    int colour_format, resolution, depth_mode, rate;
    bool colour, depth, infrared, imu;
    int32_t rest[4];
} recorded_t;

int fake_imu_next(void *out);
bool fake_imu_recorded(void);

int k4a_playback_open(const char *path, playback_t **out) {
    scene_t *scene = fake_scene(path);
    if (!scene) {
        fake_say("populate_cluster_info(). Failed to read EBML header");
        return FAILED;
    }
    *out = fake_new(PLAYBACK, sizeof **out);
    (*out)->scene = scene;
    return SUCCEEDED;
}

void k4a_playback_close(playback_t *playback) { fake_drop(playback, PLAYBACK); }

int k4a_playback_get_calibration(playback_t *playback, calibration_t *out) {
    if (!fake_check(playback, PLAYBACK))
        return FAILED;
    *out = playback->scene->calibration;
    return SUCCEEDED;
}

int k4a_playback_get_record_configuration(playback_t *playback, recorded_t *out) {
    if (!fake_check(playback, PLAYBACK))
        return FAILED;
    const scene_t *scene = playback->scene;
    *out = (recorded_t){.colour_format = scene->colour_format, .resolution = scene->calibration.colour_resolution,
                        .depth_mode = scene->calibration.depth_mode, .rate = scene->rate,
                        .colour = scene->tracks & COLOUR, .depth = (scene->tracks & DEPTH) != 0,
                        .imu = fake_imu_recorded()};
    return SUCCEEDED;
}

int k4a_playback_get_tag(playback_t *playback, const char *name, char *out, size_t *size) {
    if (!fake_check(playback, PLAYBACK) || strcmp(name, "K4A_DEVICE_SERIAL_NUMBER") || !*playback->scene->serial)
        return FAILED;
    size_t needed = strlen(playback->scene->serial) + 1;
    bool fits = *size >= needed;
    if (fits)
        memcpy(out, playback->scene->serial, needed);
    *size = needed;
    return fits ? SUCCEEDED : TOO_SMALL;
}

int k4a_playback_get_next_imu_sample(playback_t *playback, void *out) {
    return fake_check(playback, PLAYBACK) ? fake_imu_next(out) : FAILED;
}

int k4a_playback_get_next_capture(playback_t *playback, capture_t **out) {
    if (!fake_check(playback, PLAYBACK))
        return FAILED;
    const scene_t *scene = playback->scene;
    if (playback->next >= scene->frames)
        return scene->truncated ? FAILED : END_OF_FILE;
    const frame_t *frame = &scene->frame[playback->next++];
    *out = fake_capture(scene, frame, frame->colour_us, frame->depth_us, COLOUR | DEPTH, 0);
    return SUCCEEDED;
}
