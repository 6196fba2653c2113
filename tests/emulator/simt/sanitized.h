// Which sanitizer this source is compiled with; compilers say it in different ways.
#pragma once

#if defined(__has_feature)
#define SIMT_HAS_FEATURE(feature) __has_feature(feature)
#else
#define SIMT_HAS_FEATURE(feature) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || SIMT_HAS_FEATURE(address_sanitizer)
#define SIMT_ADDRESS_SANITIZER 1
#else
#define SIMT_ADDRESS_SANITIZER 0
#endif

#if defined(__SANITIZE_THREAD__) || SIMT_HAS_FEATURE(thread_sanitizer)
#define SIMT_THREAD_SANITIZER 1
#else
#define SIMT_THREAD_SANITIZER 0
#endif
