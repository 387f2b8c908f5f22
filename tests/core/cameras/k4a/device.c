/* Simulated devices: the tests plug them in, push captures, and pull the plug. */
#include "fake.h"
#include <stdio.h>
#include <string.h>

enum { SLOTS = 4, QUEUE = 64, NO_ACCESS = 1, BUSY = 2, STARVED = 3 };
typedef struct { int format, resolution, depth_mode, rate; bool synchronized; int rest[4]; } configuration_t;
typedef struct { object_t object; int slot; bool gone; } device_t;

static struct slot {
    scene_t *scene;
    bool plugged;
    int trouble;
    device_t *user;
    bool started;
    int imu_starts;
    configuration_t configuration;
    capture_t *queue[QUEUE];
    int waiting;
} slots[SLOTS];
typedef struct { float temperature, acceleration[3]; uint64_t moved_us; float turn[3]; uint64_t turned_us; } imu_sample_t;
static struct { imu_sample_t samples[4096]; int next, count; } imu;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void empty(struct slot *slot) {
    while (slot->waiting)
        k4a_capture_release(slot->queue[--slot->waiting]);
}

/* -- for the tests -- */

int fake_plug(int index, const char *path) {
    pthread_mutex_lock(&lock);
    struct slot *slot = &slots[index];
    slot->scene = fake_scene(path);
    slot->plugged = slot->scene != NULL;
    slot->trouble = slot->imu_starts = 0;
    slot->user = NULL;
    pthread_mutex_unlock(&lock);
    return slot->plugged;
}

void fake_unplug(int index) {
    pthread_mutex_lock(&lock);
    struct slot *slot = &slots[index];
    slot->plugged = slot->started = false;
    if (slot->user)
        slot->user->gone = true;
    empty(slot);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

void fake_trouble(int index, int trouble) { slots[index].trouble = trouble; }
int fake_imu_starts(int index) { return slots[index].imu_starts; }
int fake_configured(int index, int field) { return ((int *)&slots[index].configuration)[field]; }

void fake_imu(uint64_t device_us, float ax, float ay, float az, float gx, float gy, float gz) {
    imu.samples[imu.count++ % 4096] = (imu_sample_t){25, {ax, ay, az}, device_us, {gx, gy, gz}, device_us};
}
void fake_imu_clear(void) { imu.next = imu.count = 0; }

int fake_push(int index, int frame, uint64_t colour_us, uint64_t depth_us, int parts, uint64_t received_ns) {
    pthread_mutex_lock(&lock);
    struct slot *slot = &slots[index];
    bool room = slot->started && slot->waiting < QUEUE;
    if (room) {
        const scene_t *scene = slot->scene;
        const frame_t *shown = &scene->frame[frame % scene->frames];
        slot->queue[slot->waiting++] = fake_capture(scene, shown, colour_us, depth_us, parts, received_ns);
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return room;
}

/* -- k4a.h -- */

uint32_t k4a_device_get_installed_count(void) {
    uint32_t count = 0;
    for (int i = 0; i < SLOTS; i++)
        count += slots[i].plugged;
    return count;
}

static bool refused(const struct slot *slot) {
    if (slot->trouble == NO_ACCESS)
        fake_say("find_libusb_device(). libusb device(s) are all unavalable. Is the device being used by another "
                 "application?");
    else if (slot->trouble == BUSY || slot->user)
        fake_say("libusb_claim_interface(usbcmd->libusb, usbcmd->interface) returned LIBUSB_ERROR_BUSY");
    return slot->trouble == NO_ACCESS || slot->trouble == BUSY || slot->user;
}

int k4a_device_open(uint32_t index, device_t **out) {
    for (int i = 0; i < SLOTS; i++) {
        if (!slots[i].plugged || index-- > 0)
            continue;
        if (refused(&slots[i]))
            return FAILED;
        device_t *device = slots[i].user = *out = fake_new(DEVICE, sizeof *device);
        device->slot = i;
        return SUCCEEDED;
    }
    return FAILED;
}

void k4a_device_close(device_t *device) {
    if (!fake_drop(device, DEVICE) || device->gone)
        return;
    struct slot *slot = &slots[device->slot];
    if (slot->started)
        fake_fault("a device is closed while its cameras run");
    pthread_mutex_lock(&lock);
    empty(slot);
    slot->user = NULL;
    pthread_mutex_unlock(&lock);
}

int k4a_device_get_serialnum(device_t *device, char *out, size_t *size) {
    if (!fake_check(device, DEVICE) || device->gone)
        return FAILED;
    const char *serial = slots[device->slot].scene->serial;
    size_t needed = strlen(serial) + 1;
    bool fits = out && *size >= needed;
    if (fits)
        memcpy(out, serial, needed);
    *size = needed;
    return fits ? SUCCEEDED : TOO_SMALL;
}

int k4a_device_get_calibration(device_t *device, int depth_mode, int resolution, calibration_t *out) {
    if (!fake_check(device, DEVICE) || device->gone)
        return FAILED;
    *out = slots[device->slot].scene->calibration;
    return out->depth_mode == depth_mode && out->colour_resolution == resolution ? SUCCEEDED : FAILED;
}

int k4a_device_start_cameras(device_t *device, const configuration_t *configuration) {
    if (!fake_check(device, DEVICE) || device->gone)
        return FAILED;
    struct slot *slot = &slots[device->slot];
    if (slot->trouble == STARVED || configuration->format != slot->scene->colour_format) {
        fake_say("usb_cmd_stream_start(). USB bandwidth is too small");
        return FAILED;
    }
    slot->configuration = *configuration;
    slot->started = true;
    return SUCCEEDED;
}

void k4a_device_stop_cameras(device_t *device) {
    if (fake_check(device, DEVICE) && !device->gone)
        slots[device->slot].started = false;
}

int k4a_device_start_imu(device_t *device) {
    slots[device->slot].imu_starts++;
    return SUCCEEDED;
}

void k4a_device_stop_imu(device_t *device) { (void)device; }

int k4a_device_get_imu_sample(device_t *device, imu_sample_t *out, int32_t timeout_ms) {
    (void)timeout_ms;
    if (!fake_check(device, DEVICE) || imu.next == imu.count)
        return TIMEOUT;
    *out = imu.samples[imu.next++ % 4096];
    return SUCCEEDED;
}

int fake_imu_next(imu_sample_t *out) { /* of a recording */
    if (imu.next == imu.count)
        return END_OF_FILE;
    *out = imu.samples[imu.next++ % 4096];
    return SUCCEEDED;
}
bool fake_imu_recorded(void) { return imu.count > 0; }

int k4a_device_get_capture(device_t *device, capture_t **out, int32_t timeout_ms) {
    if (!fake_check(device, DEVICE))
        return FAILED;
    struct slot *slot = &slots[device->slot];
    struct timespec until = fake_until(timeout_ms);
    pthread_mutex_lock(&lock);
    while (!device->gone && !slot->waiting && timeout_ms && fake_wait(&changed, &lock, &until))
        ;
    int result = device->gone ? FAILED : slot->waiting ? SUCCEEDED : TIMEOUT;
    if (result == SUCCEEDED) {
        *out = slot->queue[0];
        memmove(slot->queue, slot->queue + 1, --slot->waiting * sizeof *slot->queue);
    }
    pthread_mutex_unlock(&lock);
    return result;
}
