// The inner loops for any processor.

#define INSTRUCTION_SET baseline
#define WIDTH 4
#define SUPPORTED true
#include "instruction_set.h"
