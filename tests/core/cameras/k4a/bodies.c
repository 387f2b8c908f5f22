/* Simulated libk4abt: finds the people that the file of the tests says are there. */
#include "fake.h"
#include <string.h>

enum { QUEUE = 3 };
typedef struct { int orientation, processing, gpu; const char *model; } settings_t;
typedef struct { object_t object; capture_t *queue[QUEUE]; int waiting; bool stopped; } tracker_t;
typedef struct { object_t object; capture_t *capture; } result_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int held, broken, processing;
static char model[256];

/* -- for the tests: results held back, a tracker that fails, and what it was made with -- */

static void set(int *what, int value) {
    pthread_mutex_lock(&lock);
    *what = value;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

void fake_bodies_hold(int on) { set(&held, on); }
void fake_bodies_break(int on) { set(&broken, on); }
int fake_bodies_processing(void) { return processing; }
const char *fake_bodies_model(void) { return model; }

/* -- k4abt.h -- */

int k4abt_tracker_create(const calibration_t *calibration, settings_t settings, tracker_t **out) {
    (void)calibration;
    if (settings.processing == 3) /* as where there is no TensorRT */
        return FAILED;
    processing = settings.processing;
    strncpy(model, settings.model ? settings.model : "", sizeof model - 1);
    *out = fake_new(TRACKER, sizeof **out);
    return SUCCEEDED;
}

void k4abt_tracker_shutdown(tracker_t *tracker) {
    if (!fake_check(tracker, TRACKER))
        return;
    pthread_mutex_lock(&lock);
    tracker->stopped = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

void k4abt_tracker_destroy(tracker_t *tracker) {
    while (tracker->waiting)
        k4a_capture_release(tracker->queue[--tracker->waiting]);
    fake_drop(tracker, TRACKER);
}

int k4abt_tracker_enqueue_capture(tracker_t *tracker, capture_t *capture, int32_t timeout_ms) {
    if (!fake_check(tracker, TRACKER) || !capture->depth || timeout_ms)
        return FAILED;
    pthread_mutex_lock(&lock);
    bool room = tracker->waiting < QUEUE;
    if (room) {
        k4a_capture_reference(capture);
        tracker->queue[tracker->waiting++] = capture;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return room ? SUCCEEDED : TIMEOUT;
}

int k4abt_tracker_pop_result(tracker_t *tracker, result_t **out, int32_t timeout_ms) {
    if (!fake_check(tracker, TRACKER))
        return FAILED;
    struct timespec until = fake_until(timeout_ms);
    pthread_mutex_lock(&lock);
    while (!tracker->stopped && !broken && (!tracker->waiting || held) && fake_wait(&changed, &lock, &until))
        ;
    int status = tracker->stopped || broken ? FAILED : tracker->waiting && !held ? SUCCEEDED : TIMEOUT;
    if (status == SUCCEEDED) {
        result_t *result = *out = fake_new(BODY_FRAME, sizeof *result);
        result->capture = tracker->queue[0];
        memmove(tracker->queue, tracker->queue + 1, --tracker->waiting * sizeof *tracker->queue);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

void k4abt_frame_release(result_t *result) {
    if (fake_drop(result, BODY_FRAME))
        k4a_capture_release(result->capture);
}

uint64_t k4abt_frame_get_device_timestamp_usec(result_t *result) {
    return fake_check(result, BODY_FRAME) ? result->capture->depth->device_us : 0;
}

uint32_t k4abt_frame_get_num_bodies(result_t *result) {
    return fake_check(result, BODY_FRAME) ? result->capture->frame->bodies : 0;
}

int k4abt_frame_get_body_skeleton(result_t *result, uint32_t index, skeleton_t *out) {
    if (!fake_check(result, BODY_FRAME) || (int)index >= result->capture->frame->bodies)
        return FAILED;
    *out = result->capture->frame->people[index].skeleton;
    return SUCCEEDED;
}

uint32_t k4abt_frame_get_body_id(result_t *result, uint32_t index) {
    return fake_check(result, BODY_FRAME) ? result->capture->frame->people[index].id : 0xFFFFFFFF;
}
